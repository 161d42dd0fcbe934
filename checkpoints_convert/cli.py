"""Converts published weights into jaxdet's, and back.

    jaxdet convert mae_pretrain_vit_base.pth weights/mae_vitb.npz
    jaxdet convert --target=imted mae_pretrain_vit_base_full.pth weights/
    jaxdet convert weights/mae_vitb.npz                 (prints its report)
    jaxdet convert runs/vitb_mae detector.npz           (--target=backbone: the ViT alone)
    jaxdet convert --to=torch runs/vitb_mae mae_vitb.safetensors
    jaxdet convert --to=torch --like=dinov2/ runs/vitb_dinov2 dinov2.safetensors

SOURCE is a file of PyTorch (.pth), safetensors, NumPy (.npz) or Detectron2 (.pkl), a folder as the
Hugging Face hub gives them (config.json, model.safetensors), an address there: hf://owner/name,
timm://name (extra `hub`), or the workdir of a run. OUT is a file, or a folder for one named after
SOURCE. `--config.init=OUT` then starts a run from it. --to=torch gives timm's names, and prints
the timm.create_model call that takes them; --like gives the names of the file it came from.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from checkpoints_convert.back import to_original
from checkpoints_convert.conversion import NAMES, convert
from checkpoints_convert.conversion_plan import Options
from checkpoints_convert.imted import to_published
from checkpoints_convert.layout import PIXELS, Pixels
from checkpoints_convert.reading import Source, fitting, read
from checkpoints_convert.report import text
from checkpoints_convert.runs import backbone_alone, is_run, read_run
from checkpoints_convert.tensors import State
from checkpoints_convert.timm_model import NoTimmClassError, timm_model
from checkpoints_convert.vit import to_timm
from checkpoints_convert.writing import write
from jaxdet import flags
from jaxdet.config.keys import Vit
from jaxdet.config.schema import keys
from jaxdet.errors import UserError
from jaxdet.weights.hub import download, is_address

LARGE = 2**26
"""Bytes from which on a progress bar is shown."""

SUFFIXES = {"jax": (".npz",), "torch": (".pth", ".pt", ".safetensors")}


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status (2 after an error of the user's)."""
    return flags.run_main(lambda: _run(_parser().parse_args(arguments)))


def _parser() -> flags.Parser:
    parser = flags.Parser("jaxdet convert", __doc__)
    parser.add_argument(
        "source",
        type=_source,
        help="the published file or folder, hf://owner/name, timm://name, or a converted",
    )
    parser.add_argument("out", nargs="?", help="a file, or a folder (ending in /)")
    parser.add_argument("--from", dest="layout", choices=sorted(NAMES), help="default: recognised")
    parser.add_argument("--to", choices=sorted(SUFFIXES), default="jax")
    parser.add_argument(
        "--like",
        type=_source,
        metavar="ORIGINAL",
        help="--to=torch: the file that the weights came from, whose tensors get their values",
    )
    parser.add_argument(
        "--target",
        choices=("backbone", "imted"),
        help="what to take: of a pre-training its encoder (default) or imTED's encoder and "
        "decoder; of a run or a detector all of it (default) or its backbone",
    )
    parser.add_argument("--window", type=_side, default=14, help="config.model.vit.window")
    parser.add_argument("--global-grid", type=_side, default=64, help="config.image_size / patch")
    parser.add_argument("--rel-pos-resize", choices=("bicubic", "geometric"), default="bicubic")
    parser.add_argument("--patch", type=_side, help="resample the patch projection to this side")
    parser.add_argument(
        "--pixels", choices=sorted(PIXELS), help="default: config.json's, the layout's"
    )
    parser.add_argument("--pixel-mean", type=_triple, help="of red, green, blue, in 0..1 or 0..255")
    parser.add_argument("--pixel-std", type=_triple, help="likewise")
    parser.add_argument("--heads", type=_side, help="attention heads; default: config.json's")
    parser.add_argument("--rope-grid", type=float, help="config.model.vit.rope_grid (EVA-02, PE)")
    parser.add_argument("--activation", choices=keys(Vit)["activation"].choices)
    parser.add_argument(
        "--allow-unknown", action="store_true", help="list unknown tensors and convert the others"
    )
    return parser


def _source(text: str) -> str | Path:
    """An address of the hub as it is, anything else as a path."""
    return text if is_address(text) else flags.local_path(text)


def _side(value: str) -> int:
    side = int(value)
    if not 1 <= side <= 1024:
        raise argparse.ArgumentTypeError(f"{side} must lie between 1 and 1024")
    return side


def _triple(value: str) -> tuple[float, ...]:
    numbers = tuple(float(part) for part in value.split(","))
    if len(numbers) != 3 or not all(0 <= number <= 255 for number in numbers):
        raise argparse.ArgumentTypeError(f"{value} must be three numbers, as 0.485,0.456,0.406")
    return tuple(255 * number for number in numbers) if max(numbers) <= 1 else numbers


def _pixels(options: argparse.Namespace) -> Pixels | str | None:
    given = (options.pixel_mean, options.pixel_std)
    if given == (None, None):
        return options.pixels
    if None in given or options.pixels is not None:
        raise UserError("give --pixel-mean and --pixel-std together, or --pixels alone")
    return Pixels(*given)


def _run(options: argparse.Namespace) -> None:
    source = _opened(options.source)
    if options.like is not None and options.to != "torch":
        raise UserError("--like is of --to=torch; give both")
    if options.out is None:
        if not _is_converted(source) or source.report is None:
            raise UserError(f"give a second path, for what {source.path} is converted to")
        _print_report(source)
        return
    out = _out_path(options.out, Path(options.source), _suffixes(source, options))
    if os.path.realpath(out) == os.path.realpath(source.path):
        raise UserError(f"{out} is the source itself; give another path")
    with fitting(source.path):
        written = _written(source, options, out)
        total = sum(4 * array.size for array in written.arrays.values())
        with tqdm(
            total=total, unit="B", unit_scale=True, desc=out.name, disable=total < LARGE
        ) as progress:
            write(out, written.arrays, written.report, progress.update, written.key)
    print(written.summary)
    print(f"written   {out}")


class _Written(NamedTuple):
    """What a file gets: arrays, the report, what is said of it, and the tensors' key in a .pth."""

    arrays: State
    report: dict[str, Any]
    summary: str
    key: str = "model"


def _written(source: Source, options: argparse.Namespace, out: Path) -> _Written:
    if options.to == "torch":
        if not _is_converted(source):
            raise UserError(f"{source.path} must be a converted .npz or a run for --to=torch")
        return _back(source, options)
    if _is_converted(source):
        return _again(source, options, out)
    return _converted(source, options)


def _opened(source: str | Path) -> Source:
    if isinstance(source, str):
        return read(download(source))
    return read_run(source) if is_run(source) else read(source)


def _is_converted(source: Source) -> bool:
    return "backbone.patch_embed.kernel" in source.state or (
        source.path.suffix == ".npz" and any(name.startswith("backbone.") for name in source.state)
    )


def _converted(source: Source, options: argparse.Namespace) -> _Written:
    options.target = options.target or "backbone"
    conversion = convert(
        source,
        Options(**{field.name: getattr(options, field.name) for field in fields(Options)}),
        layout=NAMES[options.layout] if options.layout else None,
        pixels=_pixels(options),
        allow_unknown=options.allow_unknown,
    )
    if isinstance(options.source, str):
        conversion.report["source"]["address"] = options.source
    return _Written(conversion.arrays, conversion.report, text(conversion.report))


def _again(source: Source, options: argparse.Namespace, out: Path) -> _Written:
    """A run, or a part of converted weights, or these in another kind of file."""
    if options.target == "imted":
        raise UserError(f"--target=imted is of a pre-training's file; {source.path} is converted")
    is_whole = options.target is None
    if is_whole and source.path.is_file() and out.suffix == source.path.suffix:
        raise UserError(f"{source.path} is converted already; give it to --config.init")
    source = source if is_whole else backbone_alone(source)
    if source.report is None:
        raise UserError(f"{source.path} holds no report; give it to --config.init as it is")
    return _Written(source.state, source.report, text(source.report))


def _print_report(source: Source) -> None:
    try:
        print(text(source.report))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{source.path}: its report is not the converter's") from error


def _back(source: Source, options: argparse.Namespace) -> _Written:
    """Under the original's names, an imTED detector under its authors', else the backbone's under
    timm's.
    """
    if source.report is None:
        raise UserError(
            f"{source.path} holds no report of where it came from; convert the original again"
        )
    if options.like is not None:
        return _like(source, options)
    whole = {"box_head.pos_embed", "rpn.objectness.kernel"}
    if whole <= source.state.keys() and options.target is None:
        arrays = to_published(source.state)
        summary = f"{len(arrays)} tensors under imTED's names"
        return _Written(arrays, source.report, summary, "state_dict")
    backbone = backbone_alone(source)
    others = len(source.state) - len(backbone.state)
    if others:
        print(f"{others} arrays of the detector's other parts are left out: timm has none of them")
    arrays = to_timm(backbone.state, backbone.report)
    try:
        loads = f"{timm_model(backbone.state, backbone.report)} loads them with strict=True"
    except NoTimmClassError as error:
        loads = f"timm has no class that loads them with strict=True: {error}"
    summary = f"{len(arrays)} tensors under timm's names\n{loads}"
    return _Written(arrays, backbone.report, summary)


def _like(source: Source, options: argparse.Namespace) -> _Written:
    original = _opened(options.like)
    origin = source.report.get("origin") or source.report["source"]
    if origin["sha256"] != original.sha256:
        print(
            f"warning: {original.path} has sha256 {original.sha256} and the weights came from "
            f"{origin['file']} of sha256 {origin['sha256']}"
        )
    layout = NAMES[options.layout] if options.layout else None
    arrays, unplaced = to_original(source.state, source.report, original, layout)
    if unplaced:
        print(f"the original has no place for {flags.listed(unplaced, 3)}: they are left out")
    return _Written(arrays, source.report, f"{len(arrays)} tensors under the original's names")


def _suffixes(source: Source, options: argparse.Namespace) -> tuple[str, ...]:
    """Of files that may be written: what --config.init reads, and others of what is converted."""
    others = ()
    if options.like is not None:
        others = (".npz",)  # of AugReg's and big_vision's
    elif options.to == "jax" and _is_converted(source):
        others = (".safetensors",)
    return (*SUFFIXES[options.to], *others)


def _out_path(out: str, source: Path, suffixes: tuple[str, ...]) -> Path:
    path = Path(out)
    if out.endswith("/") or path.is_dir():
        return path / f"{source.name.partition('.')[0]}{suffixes[0]}"
    if path.suffix not in suffixes:
        raise UserError(f"{out} must end in {' or '.join(suffixes)}, or be a folder")
    return path
