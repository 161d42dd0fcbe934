"""From an opened source to arrays under jaxdet's paths, and the report on both."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from checkpoints_convert import (
    augreg,
    clip,
    detectron2,
    hugging_face,
    imted,
    modern,
    timm,
    torch_zoos,
)
from checkpoints_convert.conversion_plan import ConversionPlan, Known, Options, TensorReader
from checkpoints_convert.layout import PIXELS, Layout, Pixels
from checkpoints_convert.reading import Source
from checkpoints_convert.tensors import State, Tensor
from checkpoints_convert.vit import LEFT_OUT, plan_backbone
from checkpoints_convert.wrappers import find_wrapper
from jaxdet import __version__
from jaxdet.errors import UserError

LAYOUTS = (
    detectron2.LAYOUT,
    imted.LAYOUT,
    timm.MOCO_V3,
    augreg.LAYOUT,
    augreg.BIG_VISION,
    torch_zoos.TORCHVISION,
    torch_zoos.MMPRETRAIN,
    clip.OPEN_CLIP,
    clip.HUGGING_FACE,
    clip.SIGLIP,
    *hugging_face.LAYOUTS,
    *modern.LAYOUTS,
    timm.BEIT,
    timm.DINO,
    timm.DINOV2,
    timm.MAE,
    timm.CLIP,
    timm.TIMM,
)

NAMES = {layout.name: layout for layout in LAYOUTS} | {
    "beit": replace(timm.BEIT, pixels="half"),
    "beitv2": replace(timm.BEIT, name="beitv2", title="BEiTv2", pixels="imagenet"),
    "deit": replace(timm.TIMM, pixels="imagenet"),
    "supervised": timm.TIMM,
    "ibot": timm.DINO,
}
"""What --from takes."""


@dataclass(frozen=True)
class Conversion:
    """Arrays by jaxdet's path, not read yet, and the report."""

    arrays: State
    report: dict[str, Any]


def recognised(source: Source) -> tuple[dict[str, str], Layout]:
    """What each name of a file is without the wrapper that its ViT stands in, and the layout of
    these.

    Raises:
        UserError: it is none of LAYOUTS, or could be of two.
    """
    found = [
        layout for layout in LAYOUTS if not layout.is_fallback and layout.recognises(source.state)
    ]
    if found:
        return {name: name for name in source.state}, _the_one(source, source.state, found)
    short = without_wrapper(source.state)
    state = {short[name]: tensor for name, tensor in source.state.items()}
    found = [layout for layout in LAYOUTS if layout.recognises(state)]
    return short, _the_one(source, state, found)


def without_wrapper(names: Collection[str]) -> dict[str, str]:
    """What each name is without the wrapper that the ViT stands in; those outside are marked."""
    wrapper = find_wrapper(names)
    return {
        name: name.removeprefix(wrapper) if name.startswith(wrapper) else f"{OUTSIDE}{name}"
        for name in names
    }


def _the_one(source: Source, state: State, found: Sequence[Layout]) -> Layout:
    """The layout of a file among those that its names fit."""
    found = [layout for layout in found if not layout.is_fallback] or found
    # A more particular layout has the marks of another and more.
    found = [
        each for each in found if not any(set(each.marks) < set(other.marks) for other in found)
    ]
    if found == [timm.TIMM]:
        _refuse_unshown(source, state)
    if len(found) == 1:
        return found[0]
    if found:
        titles = " and ".join(layout.title for layout in found)
        names = " or ".join(f"--from={layout.name}" for layout in found)
        raise UserError(f"{source.path} has the names of {titles}; say which with {names}")
    known = ", ".join(layout.name for layout in LAYOUTS)
    raise UserError(
        f"{source.path} is of no layout jaxdet knows ({known}): its first tensors are "
        f"{', '.join(list(state)[:3])[:120]}; it must hold a plain ViT"
    )


def _refuse_unshown(source: Source, state: State) -> None:
    """Raises UserError for names of timm that ViTs with and without an unshown part have."""
    block = "blocks.0."
    if f"{block}gamma_1" in state and not any("rel_pos" in name for name in state):
        raise UserError(
            f"{source.path} has the names of several ViTs of timm, some with rotary positions that "
            "no tensor shows (vit_*_rope_*); of these jaxdet takes EVA-02, DINOv3 and PE: say "
            "which with --from"
        )
    shown = ("attn.qkv.bias", "attn.q_bias", "ls1.gamma", "attn.q_norm.weight", "attn.norm.weight")
    is_plain = not any(f"{block}{name}" in state for name in shown) and "cls_token" not in state
    if is_plain and source.model_config is None:
        raise UserError(
            f"{source.path} has the names of timm's vit_*_rpn_*, whose norms come behind the "
            "branches, and of ViTs whose norms come before: keep timm's config.json beside it, "
            "which says it, or give --from=timm for the latter"
        )


def convert(
    source: Source,
    options: Options,
    *,
    layout: Layout | None = None,
    pixels: Pixels | str | None = None,
    allow_unknown: bool = False,
) -> Conversion:
    """Plans the conversion of a file; every name and shape is checked, no value is read.

    Args:
        layout: of the file, or None to recognise it.
        pixels: a name of PIXELS, or statistics, that override the layout's and config.json's.
        allow_unknown: whether tensors outside of the blocks that nobody expected are listed and
            otherwise ignored.

    Raises:
        UserError: see `plan_backbone`; or there is an unknown tensor, or nothing says what pixels
            the original saw.
    """
    chosen = "recognised" if layout is None else "as --from says"
    short, layout = recognised(source) if layout is None else (_short(source, layout), layout)
    names = _renamed(short, layout)
    state = {
        names[name]: replace(tensor, sources=(name,))
        for name, tensor in source.state.items()
        if not names[name].startswith(OUTSIDE)
    }
    if layout.prepare is not None:
        state = layout.prepare(state)
    kind, plan = _plan(source, state, layout, options)
    used = {name for array in plan.arrays.values() for name in array.sources}
    patterns = layout.left_out if layout.plan_detector else (*layout.left_out, *LEFT_OUT)
    left_out, unknown = _unused(names, used, (*patterns, OUTSIDE_REASON))
    _validate_unknown(source, layout, names, unknown, allow_unknown)
    left_out += [{"name": name, "reason": "beside the model's tensors"} for name in source.beside]
    report = {
        "jaxdet": __version__,
        "source": {"file": source.path.name, "bytes": source.bytes, "sha256": source.sha256},
        "layout": layout.title,
        "chosen": chosen,
        "kind": kind,
        "vit": plan.size,
        "config": plan.keys,
        "recipe": _recipe(source, layout, plan),
        **_pixels(source, layout, pixels),
        "used": {
            "tensors": len(used),
            "parameters": sum(source.state[name].size for name in used),
            "names": [name for name in names if name in used],
        },
        "left_out": left_out,
        "unknown": unknown,
        "notes": plan.notes,
    }
    return Conversion(plan.arrays, report)


def _short(source: Source, layout: Layout) -> dict[str, str]:
    """What each name is without a wrapper, where the layout does not know the names as they are."""
    if layout.recognises(source.state):
        return {name: name for name in source.state}
    return without_wrapper(source.state)


OUTSIDE = "outside/"
"""What the names of tensors outside of the wrapper, where the ViT is, get in front."""

OUTSIDE_REASON = (f"^{OUTSIDE}", "outside of the ViT")


def _validate_unknown(
    source: Source,
    layout: Layout,
    names: dict[str, str],
    unknown: Sequence[str],
    allow_unknown: bool,
) -> None:
    """Raises UserError for tensors that a conversion may not drop."""
    inside = [name for name in unknown if re.search(r"(^|\.)blocks\.\d", names[name])]
    if inside:
        raise UserError(
            f"{source.path} holds {len(inside)} tensors inside the blocks that the layout "
            f"{layout.name} does not explain, {inside[0][:100]} among them; without them it would "
            "be another model: name its layout with --from, or it is one jaxdet does not have"
        )
    if unknown and not allow_unknown:
        raise UserError(
            f"{source.path} holds {len(unknown)} tensors that the layout {layout.name} does not "
            f"know, {unknown[0][:100]} among them; name another with --from, or give "
            "--allow-unknown"
        )


def _plan(
    source: Source, state: State, layout: Layout, options: Options
) -> tuple[str, ConversionPlan]:
    """What kind of weights these are, for the report, and the plan of their arrays."""
    known = _known(source, layout, options)
    if layout.has_absolute_position and source.report is None and "pos_embed" not in state:
        raise UserError(
            f"{source.path} lacks pos_embed, which a {layout.title} file has; it is incomplete, "
            "or --from names its layout better"
        )
    if layout.plan_detector is not None:
        return "detector", layout.plan_detector(state, options, known)
    if options.target == "imted":
        return "backbone with a decoder", imted.plan_autoencoder(state, options, known)
    return "backbone", plan_backbone(TensorReader(state), options, known)


def _known(source: Source, layout: Layout, options: Options) -> Known:
    """What is known of the ViT beside its tensors: of the user, the files and the layout."""
    config, report = source.model_config, source.report
    stored = {} if report is None else report["config"]
    width = next(
        (tensor.shape[0] for name, tensor in source.state.items() if "patch_emb" in name), None
    )
    if config is not None and config.width is not None and width not in (None, config.width):
        raise UserError(
            f"{config.path} is of a model of width {config.width} and {source.path} of {width}; "
            "give each file a folder of its own"
        )
    activation = options.activation or stored.get("model.vit.activation")
    activation = activation or (config and config.activation) or layout.activation
    if activation is None:
        raise UserError(
            f"a {layout.title} file does not name its activation; give --activation=quick_gelu "
            "(OpenAI's models, DFN) or --activation=gelu (LAION's and most others)"
        )
    heads = (
        (options.heads, "--heads"),
        (stored.get("model.vit.heads"), "the report in the file"),
        (layout.heads_of(source.state), "the tensors' shape"),
        (config and config.heads, config and str(config.path)),
        (layout.heads.get(width), layout.title),
    )
    vit = {key: stored.get(f"model.vit.{key}", value) for key, value in layout.vit.items()}
    if config is not None and config.norm_eps is not None:
        # Anything smaller is the same in float32.
        vit["norm_eps"] = max(config.norm_eps, 1e-6)
    if config.post_norm if config is not None else _is_eva02_enormous(source.state, width):
        vit["post_norm"] = True
    if config is not None and config.rope_base is not None and vit.get("rope"):
        vit["rope_base"] = config.rope_base
    number, origin = next((pair for pair in heads if pair[0]), (None, ""))
    return Known(activation, number, origin, vit)


def _is_eva02_enormous(state: State, width: int | None) -> bool:
    """Whether it is EVA-02's E, whose norms come behind the branches, which no tensor shows: no
    other ViT with biases of queries and values alone has this width.
    """
    return width == 1792 and any(name.endswith("blocks.0.attn.q_bias") for name in state)


def _recipe(source: Source, layout: Layout, plan: ConversionPlan) -> dict[str, Any]:
    """Keys of config.model.vit that suit the weights and are not held against a config."""
    keys = {"model.vit.resize": layout.resize}
    if "position_grid" in plan.size:
        keys["model.vit.pretrain_grid"] = plan.size["position_grid"]
    else:
        keys["model.vit.absolute_position"] = "none"
    config = source.model_config
    if config is not None and config.window:
        keys["model.vit.window"] = config.window
    if config is not None and config.global_blocks:
        keys["model.vit.global_blocks"] = list(config.global_blocks)
    return keys


def _unused(
    names: dict[str, str], used: Collection[str], patterns: Sequence[tuple[str, str]]
) -> tuple[list[dict[str, str]], list[str]]:
    """Tensors that are left out with the reason, and those that no (pattern, reason) explains.

    Args:
        names: what each name of the file becomes in timm's.
    """
    left_out, unknown = [], []
    for name, renamed in names.items():
        if name in used:
            continue
        reason = next((reason for pattern, reason in patterns if re.search(pattern, renamed)), None)
        if reason is None:
            unknown.append(name)
        else:
            left_out.append({"name": name, "reason": reason})
    return left_out, unknown


def _renamed(short: dict[str, str], layout: Layout) -> dict[str, str]:
    """What each name of the file becomes in timm's."""
    names: dict[str, str] = {}
    originals: dict[str, str] = {}
    for original, name in short.items():
        for pattern, replacement in layout.renames:
            name = re.sub(pattern, replacement, name)
        if name in originals:
            raise UserError(
                f"{originals[name]} and {original} would both become {name}; keep one of the two "
                "models in the file"
            )
        names[original], originals[name] = name, original
    return names


STATISTICS = ("pixel_mean", "pixel_std")
"""Names of Detectron2's tensors of them, which files of older versions hold."""


def _by_channel(name: str, tensor: Tensor) -> tuple[float, ...]:
    values = tuple(map(float, tensor.read().reshape(-1))) if tensor.size == 3 else ()
    if not values or not all(map(math.isfinite, values)):
        raise UserError(
            f"the file's {name} must hold a finite number for each of red, green and blue; give "
            "--pixel-mean and --pixel-std"
        )
    return values


def _pixels(source: Source, layout: Layout, pixels: Pixels | str | None) -> dict[str, Any]:
    """The report's entries on how the original's pixels were normalised."""
    config, report = source.model_config, source.report
    if pixels is not None:
        found = PIXELS[pixels] if isinstance(pixels, str) else pixels
        origin = "as the flag says"
    elif layout.plan_detector is not None and source.state.keys() >= {*STATISTICS}:
        found = Pixels(*(_by_channel(name, source.state[name]) for name in STATISTICS))
        origin = "the pixel_mean and pixel_std in the file"
    elif report is not None:
        found = Pixels(tuple(report["pixel_mean"]), tuple(report["pixel_std"]))
        origin = "of the report in the file"
    elif config is not None and config.pixel_mean and config.pixel_std:
        found = Pixels(config.pixel_mean, config.pixel_std)
        origin = f"as the files beside {source.path.name} say"
    elif layout.pixels is not None:
        found = PIXELS[layout.pixels]
        origin = f"what {layout.title} is trained with; see --pixels"
    else:
        raise UserError(
            f"nothing in {source.path} says how the pixels of its pre-training were normalised; "
            f"give --pixels={'|'.join(PIXELS)}, --pixel-mean and --pixel-std, or keep the "
            "config.json (timm) or preprocessor_config.json (transformers) beside it"
        )
    return {
        "pixel_mean": [*found.mean],
        "pixel_std": [*found.std],
        "pixels_from": origin,
    }
