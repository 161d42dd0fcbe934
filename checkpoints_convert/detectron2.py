"""Whole Mask R-CNN detectors of Detectron2's ViTDet, and of MIMDet's copy of arXiv 2111.11429."""

from __future__ import annotations

import re

from checkpoints_convert.layout import Layout
from checkpoints_convert.plan import Options, Plan, Supply
from checkpoints_convert.tensors import State, Tensor
from checkpoints_convert.vit import plan_backbone
from jaxdet.errors import UserError

BACKBONE = r"^backbone\.(?:net|bottom_up)\."

RENAMES = (
    (r"^backbone\.bottom_up\.ms_adaptor\.0\.0\.", "pyramid.scaling.up4_first."),
    (r"^backbone\.bottom_up\.ms_adaptor\.0\.1\.", "pyramid.scaling.up4_norm."),
    (r"^backbone\.bottom_up\.ms_adaptor\.0\.3\.", "pyramid.scaling.up4_second."),
    (r"^backbone\.bottom_up\.ms_adaptor\.1\.", "pyramid.scaling.up2."),
    (r"^backbone\.bottom_up\.windowed_rel_pos_bias\.\w*table$", "vit.rel_pos_window.table"),
    (r"^backbone\.bottom_up\.global_rel_pos_bias\.\w*table$", "vit.rel_pos_global.table"),
    (BACKBONE, "vit."),
    (r"^backbone\.simfp_2\.0\.", "pyramid.up4_first."),
    (r"^backbone\.simfp_2\.1\.", "pyramid.up4_norm."),
    (r"^backbone\.simfp_2\.3\.", "pyramid.up4_second."),
    (r"^backbone\.simfp_3\.0\.", "pyramid.up2."),
    # The last two modules of each level; what comes before them differs in number.
    (r"^backbone\.simfp_2\.4\.", "pyramid.lateral.0."),
    (r"^backbone\.simfp_2\.5\.", "pyramid.output.0."),
    (r"^backbone\.simfp_3\.1\.", "pyramid.lateral.1."),
    (r"^backbone\.simfp_3\.2\.", "pyramid.output.1."),
    (r"^backbone\.simfp_4\.0\.", "pyramid.lateral.2."),
    (r"^backbone\.simfp_4\.1\.", "pyramid.output.2."),
    (r"^backbone\.simfp_5\.1\.", "pyramid.lateral.3."),
    (r"^backbone\.simfp_5\.2\.", "pyramid.output.3."),
    (r"^backbone\.fpn_(lateral|output)2\.", r"pyramid.\1.0."),
    (r"^backbone\.fpn_(lateral|output)3\.", r"pyramid.\1.1."),
    (r"^backbone\.fpn_(lateral|output)4\.", r"pyramid.\1.2."),
    (r"^backbone\.fpn_(lateral|output)5\.", r"pyramid.\1.3."),
    (r"^proposal_generator\.rpn_head\.conv\.conv(\d)\.", r"rpn.convs.\1."),
    (r"^proposal_generator\.rpn_head\.conv\.(weight|bias)$", r"rpn.convs.0.\1"),
    (r"^proposal_generator\.rpn_head\.objectness_logits\.", "rpn.objectness."),
    (r"^proposal_generator\.rpn_head\.anchor_deltas\.", "rpn.deltas."),
    (r"^roi_heads\.box_head\.conv1\.", "box_head.convs.0."),
    (r"^roi_heads\.box_head\.conv2\.", "box_head.convs.1."),
    (r"^roi_heads\.box_head\.conv3\.", "box_head.convs.2."),
    (r"^roi_heads\.box_head\.conv4\.", "box_head.convs.3."),
    (r"^roi_heads\.mask_head\.mask_fcn1\.", "mask_head.convs.0."),
    (r"^roi_heads\.mask_head\.mask_fcn2\.", "mask_head.convs.1."),
    (r"^roi_heads\.mask_head\.mask_fcn3\.", "mask_head.convs.2."),
    (r"^roi_heads\.mask_head\.mask_fcn4\.", "mask_head.convs.3."),
    (r"^roi_heads\.box_head\.fc1\.", "box_head.fc."),
    (r"^roi_heads\.box_predictor\.cls_score\.", "box_head.logits."),
    (r"^roi_heads\.box_predictor\.bbox_pred\.", "box_head.deltas."),
    (r"^roi_heads\.mask_head\.deconv\.", "mask_head.upsample."),
    (r"^roi_heads\.mask_head\.predictor\.", "mask_head.logits."),
    (
        r"^((?:pyramid\.(?:lateral|output)|(?:box|mask)_head\.convs)\.\d)\.(weight|bias)$",
        r"\1.conv.\2",
    ),
)

PARTS = re.compile(
    r"pyramid\.((scaling\.)?up4_(first|norm|second)|(scaling\.)?up2)"
    r"|pyramid\.(lateral|output)\.\d\.(conv|norm)"
    r"|rpn\.(convs\.\d|objectness|deltas)"
    r"|box_head\.(convs\.\d\.(conv|norm)|fc|logits|deltas)"
    r"|mask_head\.(convs\.\d\.(conv|norm)|upsample|logits)"
)
"""What a detector consists of, the backbone apart."""

NEEDED = (
    "rpn.objectness.kernel",
    "rpn.objectness.bias",
    "rpn.deltas.kernel",
    "rpn.deltas.bias",
    "box_head.fc.kernel",
    "box_head.fc.bias",
    "box_head.logits.kernel",
    "box_head.logits.bias",
    "box_head.deltas.kernel",
    "box_head.deltas.bias",
    "mask_head.upsample.kernel",
    "mask_head.upsample.bias",
    "mask_head.logits.kernel",
    "mask_head.logits.bias",
)

ROWS = ("pyramid.lateral", "pyramid.output", "rpn.convs", "box_head.convs", "mask_head.convs")
"""Parts that are alike but for their number."""


def recognise(state: State) -> bool:
    return any(name.startswith("proposal_generator.rpn_head.") for name in state)


LAYOUT = Layout(
    name="detectron2",
    title="Detectron2 Mask R-CNN on a ViT",
    recognise=recognise,
    renames=RENAMES,
    has_absolute_position=False,
    left_out=(
        (r"num_batches_tracked$", "a count of training steps"),
        (r"^pixel_(mean|std)$", "the normalisation, recorded apart"),
        (r"^vit\.cls_token$", "the detector has no class token"),
        (r"\.cell_anchors\.\d$", "anchors, computed from the config"),
        (r"relative_position_index$", "an index that follows from the grid"),
    ),
)


def plan_detector(state: State, options: Options, activation: str) -> Plan:
    """The arrays of a whole detector, batch statistics among them, from the renamed tensors.

    Raises:
        UserError: a part is missing, or the backbone is no ViT.
    """
    prefix = "vit."
    backbone = {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}
    plan = plan_backbone(Supply(backbone), options, activation)
    channels = _pooled_channels(state)
    for name, tensor in state.items():
        part, _, leaf = name.rpartition(".")
        if PARTS.fullmatch(part) and leaf in LEAVES:
            is_norm = part.endswith("norm")
            path = f"{part}.{'kernel' if leaf == 'weight' and not is_norm else LEAVES[leaf]}"
            plan.arrays[path] = _layout(path, tensor, channels)
    _check_whole(plan)
    classes = plan.arrays["mask_head.logits.bias"].shape[0]
    plan.size["classes"] = classes
    plan.notes.append(
        f"a whole detector of {classes} classes: its labels are in its training set's order"
    )
    return plan


LEAVES = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


def _check_whole(plan: Plan) -> None:
    """Refuses a detector that lacks a part, or one of a row a tensor that its neighbours have."""
    absent = [path for path in NEEDED if path not in plan.arrays]
    for row in ROWS:
        leaves: dict[int, set[str]] = {}
        for path in plan.arrays:
            if match := re.match(rf"{re.escape(row)}\.(\d)\.(.+)", path):
                leaves.setdefault(int(match[1]), set()).add(match[2])
        everything = set().union(*leaves.values())
        for i in range(max(leaves, default=3 if row.startswith("pyramid") else -1) + 1):
            absent += [f"{row}.{i}.{leaf}" for leaf in everything - leaves.get(i, set())]
            absent += [] if everything else [f"{row}.{i}.conv.kernel"]
    if absent:
        raise UserError(
            f"the file lacks what becomes {min(absent)} ({len(absent)} tensors in all); "
            "it is incomplete: download it again"
        )


def _layout(path: str, tensor: Tensor, channels: int) -> Tensor:
    """Kernels as jaxdet lays them out: [rows, columns, inputs, outputs], or [inputs, outputs].

    Args: channels: of the map that the box head flattens, which PyTorch does channels first.
    """
    if path == "box_head.fc.kernel":
        outputs, inputs = tensor.shape
        side = round((inputs / channels) ** 0.5)
        if side * side * channels != inputs:
            raise UserError(f"box_head.fc1.weight takes {inputs} numbers, no map of {channels}")
        maps = tensor.reshape(outputs, channels, side, side)
        return maps.transpose(2, 3, 1, 0).reshape(inputs, outputs)
    if len(tensor.shape) == 4 and ".up" in path:
        return tensor.transpose(0, 2, 3, 1)
    if len(tensor.shape) == 4:
        return tensor.transpose(2, 3, 1, 0)
    return tensor.transpose(1, 0) if len(tensor.shape) == 2 else tensor


def _pooled_channels(state: State) -> int:
    """Channels of what the box head flattens: its last convolution's, or else the pyramid's."""
    convs = sorted(
        name for name in state if re.fullmatch(r"box_head\.convs\.\d\.conv\.weight", name)
    )
    name = convs[-1] if convs else "pyramid.output.0.conv.weight"
    if name not in state:
        raise UserError(f"the file lacks what becomes {name}; it is incomplete: download it again")
    return state[name].shape[0]
