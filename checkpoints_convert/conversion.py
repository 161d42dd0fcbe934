"""From an opened source to arrays under jaxdet's paths, and the report on both."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from checkpoints_convert import augreg, clip, detectron2, imted, timm
from checkpoints_convert.conversion_plan import ConversionPlan, Options, TensorReader
from checkpoints_convert.layout import PIXELS, Layout
from checkpoints_convert.reading import Source
from checkpoints_convert.tensors import State
from checkpoints_convert.vit import LEFT_OUT, plan_backbone
from jaxdet import __version__
from jaxdet.errors import UserError

LAYOUTS = (
    detectron2.LAYOUT,
    imted.LAYOUT,
    timm.MOCO_V3,
    augreg.LAYOUT,
    clip.OPEN_CLIP,
    clip.HUGGING_FACE,
    clip.SIGLIP,
    timm.BEIT,
    timm.DINO,
    timm.DINOV2,
    timm.MAE,
    timm.TIMM,
)
"""In the order they are tried; each excludes those after it."""

NAMES = {layout.name: layout for layout in LAYOUTS} | {
    "deit": timm.TIMM,
    "supervised": timm.TIMM,
    "ibot": timm.DINO,
}
"""What --from takes."""


@dataclass(frozen=True)
class Conversion:
    """Arrays by jaxdet's path, not read yet, and the report."""

    arrays: State
    report: dict[str, Any]


def recognise(source: Source) -> Layout:
    """The layout of a file.

    Raises:
        UserError: it is none of LAYOUTS.
    """
    for layout in LAYOUTS:
        if layout.recognises(source.state):
            return layout
    known = ", ".join(layout.name for layout in LAYOUTS)
    raise UserError(
        f"{source.path} is of no layout jaxdet knows ({known}): its first tensors are "
        f"{', '.join(list(source.state)[:3])}; it must hold a plain ViT"
    )


def convert(
    source: Source,
    options: Options,
    *,
    layout: Layout | None = None,
    pixels: str | None = None,
    allow_unknown: bool = False,
) -> Conversion:
    """Plans the conversion of a file; every name and shape is checked, no value is read.

    Args:
        layout: of the file, or None to recognise it.
        pixels: a name of PIXELS that overrides the layout's.
        allow_unknown: whether tensors that nobody expected are listed and otherwise ignored.

    Raises:
        UserError: see `plan_backbone`; or there is an unknown tensor.
    """
    chosen = "recognised" if layout is None else "as --from says"
    layout = layout or recognise(source)
    names = _renamed(source.state, layout)
    state = {names[name]: replace(tensor, sources=(name,)) for name, tensor in source.state.items()}
    if layout.prepare is not None:
        state = layout.prepare(state)
    kind, plan = _plan(source, state, layout, options)
    used = {name for array in plan.arrays.values() for name in array.sources}
    patterns = layout.left_out if layout.plan_detector else (*layout.left_out, *LEFT_OUT)
    left_out, unknown = _unused(names, used, patterns)
    if unknown and not allow_unknown:
        raise UserError(
            f"{source.path} holds {len(unknown)} tensors that the layout {layout.name} does not "
            f"know, {unknown[0]} among them; name another with --from, or give --allow-unknown"
        )
    left_out += [{"name": name, "reason": "beside the model's tensors"} for name in source.beside]
    report = {
        "jaxdet": __version__,
        "source": {"file": source.path.name, "bytes": source.bytes, "sha256": source.sha256},
        "layout": layout.title,
        "chosen": chosen,
        "kind": kind,
        "vit": plan.size,
        "config": plan.keys,
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


def _plan(
    source: Source, state: State, layout: Layout, options: Options
) -> tuple[str, ConversionPlan]:
    """What kind of weights these are, for the report, and the plan of their arrays."""
    activation = options.activation or layout.activation
    if source.report is not None:
        activation = source.report["config"].get("model.vit.activation", activation)
    if activation is None:
        raise UserError(
            f"a {layout.title} file does not name its activation; give --activation=quick_gelu "
            "(OpenAI's models, DFN) or --activation=gelu (LAION's and most others)"
        )
    if layout.has_absolute_position and source.report is None and "pos_embed" not in state:
        raise UserError(
            f"{source.path} lacks pos_embed, which a {layout.title} file has; it is incomplete, "
            "or --from names its layout better"
        )
    if layout.plan_detector is not None:
        return "detector", layout.plan_detector(state, options, activation)
    if options.target == "imted":
        return "backbone with a decoder", imted.plan_autoencoder(state, options, activation)
    return "backbone", plan_backbone(TensorReader(state), options, activation)


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


def _renamed(state: State, layout: Layout) -> dict[str, str]:
    """What each name of the file becomes in timm's."""
    names: dict[str, str] = {}
    originals: dict[str, str] = {}
    for original in state:
        name = original
        for pattern, replacement in layout.renames:
            name = re.sub(pattern, replacement, name)
        if name in originals:
            raise UserError(
                f"{originals[name]} and {original} would both become {name}; keep one of the two "
                "models in the file"
            )
        names[original], originals[name] = name, original
    return names


def _pixels(source: Source, layout: Layout, pixels: str | None) -> dict[str, Any]:
    """The report's entries on how the original's pixels were normalised."""
    if source.report is not None and pixels is None:
        return {
            "pixel_mean": source.report["pixel_mean"],
            "pixel_std": source.report["pixel_std"],
            "pixels_from": "of the report in the file",
        }
    found = PIXELS[pixels or layout.pixels]
    return {
        "pixel_mean": [*found.mean],
        "pixel_std": [*found.std],
        "pixels_from": (
            "as --pixels says" if pixels else f"what {layout.title} is trained with; see --pixels"
        ),
    }
