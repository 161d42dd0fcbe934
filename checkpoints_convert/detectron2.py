"""Whole Mask R-CNN and Cascade Mask R-CNN detectors of Detectron2's ViTDet, and of MIMDet's copy of
arXiv 2111.11429."""

from __future__ import annotations

import re

from checkpoints_convert.conversion_plan import ConversionPlan, Known, Options, TensorReader
from checkpoints_convert.detector import describe_classes, plan_leaf, validate_complete
from checkpoints_convert.layout import Layout
from checkpoints_convert.tensors import State, Tensor
from checkpoints_convert.vit import plan_backbone
from jaxdet.errors import UserError

RENAMES = (
    (r"^backbone\.bottom_up\.ms_adaptor\.0\.0\.", "pyramid.scaling.up4_first."),
    (r"^backbone\.bottom_up\.ms_adaptor\.0\.1\.", "pyramid.scaling.up4_norm."),
    (r"^backbone\.bottom_up\.ms_adaptor\.0\.3\.", "pyramid.scaling.up4_second."),
    (r"^backbone\.bottom_up\.ms_adaptor\.1\.", "pyramid.scaling.up2."),
    (r"^backbone\.bottom_up\.windowed_rel_pos_bias\.\w*table$", "vit.rel_pos_window.table"),
    (r"^backbone\.bottom_up\.global_rel_pos_bias\.\w*table$", "vit.rel_pos_global.table"),
    (r"^backbone\.(?:net|bottom_up)\.", "vit."),
    (r"^backbone\.simfp_2\.0\.", "pyramid.up4_first."),
    (r"^backbone\.simfp_2\.1\.", "pyramid.up4_norm."),
    (r"^backbone\.simfp_2\.3\.", "pyramid.up4_second."),
    (r"^backbone\.simfp_3\.0\.", "pyramid.up2."),
    # The last two modules of each level; what comes before them differs in number.
    *(
        (rf"^backbone\.simfp_{level + 2}\.{module}\.", f"pyramid.{part}.{level}.")
        for level, modules in enumerate(((4, 5), (1, 2), (0, 1), (1, 2)))
        for module, part in zip(modules, ("lateral", "output"), strict=True)
    ),
    *(
        (rf"^backbone\.fpn_(lateral|output){level + 2}\.", rf"pyramid.\1.{level}.")
        for level in range(4)
    ),
    (r"^proposal_generator\.rpn_head\.conv\.conv(\d)\.", r"rpn.convs.\1."),
    (r"^proposal_generator\.rpn_head\.conv\.(weight|bias)$", r"rpn.convs.0.\1"),
    (r"^proposal_generator\.rpn_head\.objectness_logits\.", "rpn.objectness."),
    (r"^proposal_generator\.rpn_head\.anchor_deltas\.", "rpn.deltas."),
    # A cascade has a head and a predictor a stage, by number.
    (r"^roi_heads\.box_head\.(\d\.)?fc1\.", r"box_head.\1fc."),
    (r"^roi_heads\.box_predictor\.(\d\.)?cls_score\.", r"box_head.\1logits."),
    (r"^roi_heads\.box_predictor\.(\d\.)?bbox_pred\.", r"box_head.\1deltas."),
    *(
        (rf"^roi_heads\.box_head\.(\d\.)?conv{i + 1}\.", rf"box_head.\1convs.{i}.")
        for i in range(4)
    ),
    *((rf"^roi_heads\.mask_head\.mask_fcn{i + 1}\.", f"mask_head.convs.{i}.") for i in range(4)),
    (r"^roi_heads\.mask_head\.deconv\.", "mask_head.upsample."),
    (r"^roi_heads\.mask_head\.predictor\.", "mask_head.logits."),
    (
        r"^((?:pyramid\.(?:lateral|output)|(?:box_head(?:\.\d)?|mask_head)\.convs)\.\d)"
        r"\.(weight|bias)$",
        r"\1.conv.\2",
    ),
)

PARTS = re.compile(
    r"pyramid\.((scaling\.)?up4_(first|norm|second)|(scaling\.)?up2)"
    r"|pyramid\.(lateral|output)\.\d\.(conv|norm)"
    r"|rpn\.(convs\.\d|objectness|deltas)"
    r"|box_head\.(\d\.)?(convs\.\d\.(conv|norm)|fc|logits|deltas)"
    r"|mask_head\.(convs\.\d\.(conv|norm)|upsample|logits)"
)
"""What a detector consists of, the backbone apart."""

NEEDED = ("rpn.objectness", "rpn.deltas", "mask_head.upsample", "mask_head.logits")
"""Layers that every detector has, beside those of `NEEDED_OF_BOX_HEAD` in each box head."""

NEEDED_OF_BOX_HEAD = ("fc", "logits", "deltas")

ROWS = ("pyramid.lateral", "pyramid.output", "rpn.convs", "mask_head.convs")
"""Parts that are alike but for their number, beside the convolutions of each box head."""


def plan_detector(state: State, options: Options, known: Known) -> ConversionPlan:
    """The arrays of a whole detector, batch statistics among them, from the renamed tensors.

    Raises:
        UserError: a part is missing, or the backbone is no ViT.
    """
    prefix = "vit."
    backbone = {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}
    plan = plan_backbone(TensorReader(backbone), options, known)
    for name, tensor in state.items():
        if PARTS.fullmatch(name.rpartition(".")[0]):
            plan_leaf(plan, name, tensor)
    heads = _box_heads(state)
    for head in heads:
        if f"{head}.fc.weight" in state:
            plan.arrays[f"{head}.fc.kernel"] = _flattened_kernel(state, head)
    validate_complete(_absent(plan.arrays, heads))
    describe_classes(plan, plan.arrays["mask_head.logits.bias"].shape[0])
    _describe_boxes(plan, heads)
    return plan


def _box_heads(state: State) -> list[str]:
    """The path of the box head, or those of a cascade's, first stage first."""
    numbers = {
        int(match[1])
        for name in state
        if (match := re.match(r"box_head\.(\d)\.", name)) is not None
    }
    return [f"box_head.{i}" for i in range(max(numbers) + 1)] if numbers else ["box_head"]


def _describe_boxes(plan: ConversionPlan, heads: list[str]) -> None:
    """What config.model.heads must say of the boxes, by how many of them a head predicts."""
    is_cascade = len(heads) > 1
    outputs = plan.arrays[f"{heads[0]}.deltas.bias"].shape[0]
    is_agnostic = outputs == 4 and (is_cascade or plan.size["classes"] > 1)
    plan.keys["model.heads.class_agnostic_boxes"] = is_agnostic
    factors = [float(stage) for stage in range(2, len(heads) + 1)]
    plan.keys["model.heads.cascade_factors"] = factors
    if is_cascade:
        plan.notes.append(
            f"a cascade of {len(heads)} stages, whose box deltas are taken for Detectron2's: "
            f"factors {', '.join(f'{factor:g}' for factor in factors)} on the first stage's weights"
        )


def _absent(arrays: State, heads: list[str]) -> list[str]:
    """Arrays that every detector has, and those of a row that their neighbours have."""
    needed = (*NEEDED, *(f"{head}.{part}" for head in heads for part in NEEDED_OF_BOX_HEAD))
    paths = (f"{part}.{leaf}" for part in needed for leaf in ("kernel", "bias"))
    absent = [path for path in paths if path not in arrays]
    for row in (*ROWS, *(f"{head}.convs" for head in heads)):
        leaves: dict[int, set[str]] = {}
        for path in arrays:
            if match := re.match(rf"{re.escape(row)}\.(\d)\.(.+)", path):
                leaves.setdefault(int(match[1]), set()).add(match[2])
        everything = set().union(*leaves.values())
        for i in range(max(leaves, default=3 if row.startswith("pyramid") else -1) + 1):
            absent += [f"{row}.{i}.{leaf}" for leaf in everything - leaves.get(i, set())]
            absent += [] if everything else [f"{row}.{i}.conv.kernel"]
    return absent


def _flattened_kernel(state: State, head: str) -> Tensor:
    """A box head's first layer over a flattened map [rows, columns, channels], which PyTorch
    flattens channels first.
    """
    channels = _pooled_channels(state, head)
    outputs, inputs = TensorReader(state).shape(f"{head}.fc.weight", 2)
    side = round((inputs / channels) ** 0.5)
    if side * side * channels != inputs:
        raise UserError(f"{head}.fc1.weight takes {inputs} numbers, no map of {channels}")
    maps = state[f"{head}.fc.weight"].reshape(outputs, channels, side, side)
    return maps.transpose(2, 3, 1, 0).reshape(inputs, outputs)


def _pooled_channels(state: State, head: str) -> int:
    """Channels of what a box head flattens: its last convolution's, or else the pyramid's."""
    convs = sorted(
        name for name in state if re.fullmatch(rf"{re.escape(head)}\.convs\.\d\.conv\.weight", name)
    )
    name = convs[-1] if convs else "pyramid.output.0.conv.weight"
    if name not in state:
        raise UserError(f"the file lacks what becomes {name}; it is incomplete: download it again")
    return state[name].shape[0]


LAYOUT = Layout(
    name="detectron2",
    title="Detectron2 Mask R-CNN on a ViT",
    marks=(r"^proposal_generator\.rpn_head\.",),
    renames=RENAMES,
    has_absolute_position=False,
    plan_detector=plan_detector,
    left_out=(
        (r"num_batches_tracked$", "a count of training steps"),
        (r"^pixel_(mean|std)$", "the pixels' normalisation, which the report has"),
        (r"^vit\.cls_token$", "the detector has no class token"),
        (r"\.cell_anchors\.\d$", "anchors, computed from the config"),
        (r"relative_position_index$", "an index that follows from the grid"),
    ),
)
