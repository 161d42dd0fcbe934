"""Reads the reference detectors' PyTorch state into the names and layouts of this project."""

from __future__ import annotations

import re

import numpy as np

RENAMES = [
    (r"^backbone\.simfp_2\.0\.", "pyramid.up4_first."),
    (r"^backbone\.simfp_2\.1\.", "pyramid.up4_norm."),
    (r"^backbone\.simfp_2\.3\.", "pyramid.up4_second."),
    (r"^backbone\.simfp_3\.0\.", "pyramid.up2."),
    # The last two modules of each level; what comes before them differs in number.
    (r"^backbone\.simfp_(2\.4|3\.1|4\.0|5\.1)\.", lambda m: f"pyramid.lateral.{int(m[1][0]) - 2}."),
    (r"^backbone\.simfp_(2\.5|3\.2|4\.1|5\.2)\.", lambda m: f"pyramid.output.{int(m[1][0]) - 2}."),
    (r"^(pyramid\.(?:lateral|output)\.\d)\.weight$", r"\1.conv.weight"),
    (r"^backbone\.net\.", "backbone."),
    (r"\.attn\.rel_pos_h$", ".attn.rel_pos.height"),
    (r"\.attn\.rel_pos_w$", ".attn.rel_pos.width"),
    (r"^backbone\.patch_embed\.proj\.", "backbone.patch_embed."),
    (
        r"^backbone\.fpn_(lateral|output)(\d)\.norm\.",
        lambda m: f"pyramid.{m[1]}.{int(m[2]) - 2}.norm.",
    ),
    (r"^backbone\.fpn_(lateral|output)(\d)\.", lambda m: f"pyramid.{m[1]}.{int(m[2]) - 2}.conv."),
    (r"^backbone\.bottom_up\.ms_adaptor\.0\.0\.", "pyramid.scaling.up4_first."),
    (r"^backbone\.bottom_up\.ms_adaptor\.0\.1\.", "pyramid.scaling.up4_norm."),
    (r"^backbone\.bottom_up\.ms_adaptor\.0\.3\.", "pyramid.scaling.up4_second."),
    (r"^backbone\.bottom_up\.ms_adaptor\.1\.", "pyramid.scaling.up2."),
    (r"^backbone\.bottom_up\.windowed_rel_pos_bias\.\w+", "backbone.rel_pos_window.table"),
    (r"^backbone\.bottom_up\.global_rel_pos_bias\.\w+", "backbone.rel_pos_global.table"),
    (r"^backbone\.bottom_up\.patch_embed\.proj\.", "backbone.patch_embed."),
    (r"^backbone\.bottom_up\.", "backbone."),
    (r"\.gamma_", ".gamma"),
    (r"^proposal_generator\.rpn_head\.conv\.conv(\d)\.", r"rpn.convs.\1."),
    (r"^proposal_generator\.rpn_head\.objectness_logits\.", "rpn.objectness."),
    (r"^proposal_generator\.rpn_head\.anchor_deltas\.", "rpn.deltas."),
    (
        r"^roi_heads\.(box|mask)_head\.(?:conv|mask_fcn)(\d)\.norm\.",
        lambda m: f"{m[1]}_head.convs.{int(m[2]) - 1}.norm.",
    ),
    (
        r"^roi_heads\.(box|mask)_head\.(?:conv|mask_fcn)(\d)\.",
        lambda m: f"{m[1]}_head.convs.{int(m[2]) - 1}.conv.",
    ),
    (r"^roi_heads\.box_head\.fc1\.", "box_head.fc."),
    (r"^roi_heads\.box_predictor\.cls_score\.", "box_head.logits."),
    (r"^roi_heads\.box_predictor\.bbox_pred\.", "box_head.deltas."),
    (r"^roi_heads\.mask_head\.deconv\.", "mask_head.upsample."),
    (r"^roi_heads\.mask_head\.predictor\.", "mask_head.logits."),
]


def convert(state: dict[str, np.ndarray], roi_size: int = 7) -> dict[str, np.ndarray]:
    """Arrays by dotted path (parameters and batch statistics) from a PyTorch state dict."""
    converted = {}
    for name, value in state.items():
        if name.endswith(("num_batches_tracked", "relative_position_index")):
            continue
        path = name
        for pattern, replacement in RENAMES:
            path = re.sub(pattern, replacement, path)
        is_norm = value.ndim == 1
        path = re.sub(r"\.weight$", ".scale" if is_norm else ".kernel", path)
        path = path.replace(".running_mean", ".mean").replace(".running_var", ".var")
        converted[path] = _layout(path, value, roi_size)
    return converted


def _layout(path: str, value: np.ndarray, roi_size: int) -> np.ndarray:
    if path == "backbone.pos_embed":
        side = int(np.sqrt(value.shape[1]))
        return value[:, -(side**2) :].reshape(side, side, -1)  # without a class token's
    if path == "backbone.patch_embed.kernel":
        return value.transpose(2, 3, 1, 0).reshape(-1, value.shape[0])
    if path == "box_head.fc.kernel":
        inputs = value.reshape(value.shape[0], -1, roi_size, roi_size)
        return inputs.transpose(2, 3, 1, 0).reshape(-1, value.shape[0])
    if ".up" in path and value.ndim == 4:
        return value.transpose(0, 2, 3, 1)
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    if path.endswith(".kernel"):
        return value.T
    return value
