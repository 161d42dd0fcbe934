"""imTED (github.com/LiewFeng/imTED): MAE's encoder and decoder as a detector's start, and whole
detectors in both directions.
"""

from __future__ import annotations

import numpy as np

from checkpoints_convert.conversion_plan import ConversionPlan, Known, Options, TensorReader
from checkpoints_convert.detector import (
    LEAVES,
    describe_classes,
    plan_leaf,
    to_torch,
    validate_complete,
)
from checkpoints_convert.layout import Layout
from checkpoints_convert.tensors import State, Tensor, concatenate, zeros
from checkpoints_convert.vit import plan_backbone, to_timm
from jaxdet.errors import UserError

HEAD = "roi_head.bbox_head."
MODULATION = "roi_head.mfm_fc.weight"

PREFIXES = (
    ("backbone.fpn1.0.", "pyramid.up4_first."),
    ("backbone.fpn1.1.", "pyramid.up4_norm."),
    ("backbone.fpn1.3.", "pyramid.up4_second."),
    ("backbone.fpn2.0.", "pyramid.up2."),
    ("neck.lateral_convs.", "pyramid.lateral."),
    ("neck.fpn_convs.", "pyramid.output."),
    ("rpn_head.rpn_conv.", "rpn.convs.0."),
    ("rpn_head.rpn_cls.", "rpn.objectness."),
    ("rpn_head.rpn_reg.", "rpn.deltas."),
    ("roi_head.mfm_fc.", "box_features.project."),
    (f"{HEAD}norm.", "box_head.norm."),
    (f"{HEAD}decoder_embed.", "box_head.embed."),
    (f"{HEAD}decoder_blocks.", "box_head.blocks."),
    (f"{HEAD}decoder_box_norm.", "box_head.box_norm."),
    (f"{HEAD}fc_cls.", "box_head.logits."),
    (f"{HEAD}fc_reg.", "box_head.deltas."),
    ("roi_head.mask_head.convs.", "mask_head.convs."),
    ("roi_head.mask_head.upsample.", "mask_head.upsample."),
    ("roi_head.mask_head.conv_logits.", "mask_head.logits."),
)
"""Their names and ours of everything but the encoder and single tensors."""

NEEDED = (
    *(f"pyramid.{part}.kernel" for part in ("up4_first", "up4_second", "up2")),
    *(f"pyramid.up4_norm.{leaf}" for leaf in ("scale", "bias", "mean", "var")),
    *(f"pyramid.{row}.{i}.conv.kernel" for row in ("lateral", "output") for i in range(4)),
    *(f"pyramid.{row}.{i}.norm.scale" for row in ("lateral", "output") for i in range(4)),
    *(f"rpn.{part}.kernel" for part in ("convs.0", "objectness", "deltas")),
    *(f"box_head.{part}.kernel" for part in ("embed", "logits", "deltas")),
    *(f"box_head.{part}.scale" for part in ("norm", "box_norm", "blocks.0.norm1")),
)
"""Arrays without which a file is no whole detector."""


def plan_autoencoder(state: State, options: Options, known: Known) -> ConversionPlan:
    """The arrays that imTED takes from MAE: the encoder with its class token, its final norm and
    the decoder as the box head's first parts.

    Raises:
        UserError: see `plan_backbone`; or there is no decoder.
    """
    if "decoder_embed.weight" not in state:
        raise UserError(
            "the file holds an encoder and no decoder, which imTED's box head is made from; give "
            "the one with both (MAE's mae_pretrain_vit_base_full.pth, for example)"
        )
    plan = plan_backbone(TensorReader(state), options, known)
    _plan_class_token(plan, state)
    head = {
        "norm.": "box_head.norm.",
        "decoder_embed.": "box_head.embed.",
        "decoder_blocks.": "box_head.blocks.",
    }
    for name, tensor in state.items():
        for theirs, ours in head.items():
            if name.startswith(theirs):
                plan_leaf(plan, ours + name.removeprefix(theirs), tensor)
    _plan_decoder_position(plan, "decoder_pos_embed", state)
    _describe_decoder(plan)
    return plan


def plan_detector(state: State, options: Options, known: Known) -> ConversionPlan:
    """The arrays of a whole detector, batch statistics among them.

    Raises:
        UserError: see `plan_backbone`; or a part is missing.
    """
    encoder = {
        name.removeprefix("backbone."): tensor
        for name, tensor in state.items()
        if name.startswith("backbone.") and not name.startswith("backbone.fpn")
    }
    plan = plan_backbone(TensorReader(encoder), options, known)
    _plan_class_token(plan, encoder)
    for name, tensor in state.items():
        if name == MODULATION and len(tensor.shape) == 4:  # a 1 x 1 convolution
            tensor = tensor.reshape(*tensor.shape[:2])
        for theirs, ours in PREFIXES:
            if name.startswith(theirs):
                plan_leaf(plan, ours + name.removeprefix(theirs).replace("ln.", "norm."), tensor)
    has_gate = "roi_head.mfm_factor" in state
    if has_gate:
        plan.arrays["box_features.gate"] = state["roi_head.mfm_factor"]
    _plan_decoder_position(plan, f"{HEAD}decoder_pos_embed", state)
    needed = {*NEEDED, *(("box_features.project.kernel",) if has_gate else ())}
    validate_complete(needed - plan.arrays.keys())
    _describe_decoder(plan)
    channels = plan.arrays["pyramid.lateral.0.conv.kernel"].shape[-1]
    from_pyramid = plan.arrays["box_head.norm.scale"].shape != (plan.size["width"],)
    plan.keys |= {
        "model.pyramid.kind": "imted",
        "model.pyramid.channels": channels,
        "model.heads.box": "decoder",
        "model.heads.box_features": (
            "modulated" if has_gate else "pyramid" if from_pyramid else "encoder"
        ),
        "model.heads.mask": "mask_head.logits.kernel" in plan.arrays,
    }
    describe_classes(plan, plan.arrays["box_head.logits.bias"].shape[0] - 1)  # background apart
    return plan


def _plan_class_token(plan: ConversionPlan, state: State) -> None:
    """The class token and its position, which other detectors do not take."""
    reader, width = TensorReader(state), plan.size["width"]
    plan.arrays["backbone.class_token"] = reader.expect("cls_token", (1, 1, width)).reshape(width)
    position = reader.expect_any("pos_embed", 3)
    if position.shape[1] != plan.size["position_grid"] ** 2 + 1:
        raise UserError("pos_embed has no position for the class token; imTED takes MAE's layout")
    plan.arrays["backbone.class_pos_embed"] = position.map((width,), lambda values: values[0, 0])
    plan.keys["model.vit.class_token"] = True


def _plan_decoder_position(plan: ConversionPlan, name: str, state: State) -> None:
    reader = TensorReader(state)
    _, count, width = reader.shape(name, 3)
    side = round((count - 1) ** 0.5)
    if side * side != count - 1:
        raise UserError(f"{name} has {count} positions, which are no square grid and a class token")
    position, shape = reader.expect(name, (1, count, width)), (side, side, width)
    plan.arrays["box_head.pos_embed"] = position.map(shape, lambda v: v[0, 1:].reshape(shape))


def _describe_decoder(plan: ConversionPlan) -> None:
    arrays = plan.arrays
    blocks = {path.split(".")[2] for path in arrays if path.startswith("box_head.blocks.")}
    side, _, width = arrays["box_head.pos_embed"].shape
    plan.keys |= {
        "model.decoder.width": width,
        "model.decoder.depth": len(blocks),
        "model.decoder.pretrain_grid": side,
    }
    plan.size |= {"decoder_width": width, "decoder_depth": len(blocks)}
    plan.notes.append(
        "the number of heads of the decoder is not in the file; the config's is not checked"
    )


def to_published(arrays: State) -> State:
    """A whole detector's arrays under jaxdet's paths as tensors under imTED's names.

    The row of the decoder's position embedding for a class token, which nothing reads, is zero.
    """
    arrays = dict(arrays)
    token, position = arrays.pop("backbone.class_token"), arrays.pop("backbone.class_pos_embed")
    width = token.shape[0]
    encoder = {path: array for path, array in arrays.items() if path.startswith("backbone.")}
    plain = to_timm(encoder, {"config": {}, "vit": {}})
    state = {f"backbone.{name}": tensor for name, tensor in plain.items()}
    state["backbone.cls_token"] = token.reshape(1, 1, width)
    state["backbone.pos_embed"] = _with_first(position, state["backbone.pos_embed"])
    decoder = arrays.pop("box_head.pos_embed")
    side, _, decoder_width = decoder.shape
    state[f"{HEAD}decoder_pos_embed"] = _with_first(
        zeros(decoder_width), decoder.reshape(1, side * side, decoder_width)
    )
    if "box_features.gate" in arrays:
        state["roi_head.mfm_factor"] = arrays.pop("box_features.gate")
    theirs_of = {"kernel": "weight", "scale": "weight"}
    theirs_of |= {ours: theirs for theirs, ours in LEAVES.items()}
    for path, tensor in arrays.items():
        for theirs, ours in PREFIXES:
            if path.startswith(ours):
                part, _, leaf = path.rpartition(".")
                name = theirs + f"{part}.".removeprefix(ours)
                if theirs.startswith("neck."):
                    name = name.replace("norm.", "ln.")
                state[name + theirs_of[leaf]] = to_torch(part, tensor)
    if MODULATION in state:
        state[MODULATION] = state[MODULATION].reshape(*state[MODULATION].shape, 1, 1)
    return state


def _with_first(first: Tensor, others: Tensor) -> Tensor:
    """[1, 1 + n, width] from the class token's row [width] and [1, n, width]."""
    width = first.shape[0]
    rows = concatenate([first.reshape(1, width), others.reshape(others.shape[1], width)])
    return rows.map((1, *rows.shape), lambda values: np.asarray(values)[None])


LAYOUT = Layout(
    name="imted",
    title="imTED",
    marks=(r"^roi_head\.bbox_head\.decoder_embed\.weight$",),
    has_absolute_position=False,
    plan_detector=plan_detector,
    left_out=((r"num_batches_tracked$", "a count of training steps"),),
)
