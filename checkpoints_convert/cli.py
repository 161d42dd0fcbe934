"""Converts published weights into jaxdet's, and back.

    jaxdet convert mae_pretrain_vit_base.pth weights/mae_vitb.npz
    jaxdet convert --target=imted mae_pretrain_vit_base_full.pth weights/
    jaxdet convert weights/mae_vitb.npz                 (prints its report)
    jaxdet convert --to=torch weights/mae_vitb.npz mae_vitb.safetensors

SOURCE is a file of PyTorch (.pth), safetensors, NumPy (.npz, AugReg) or Detectron2 (.pkl), or a
folder as the Hugging Face hub gives them (config.json, model.safetensors), or an address there:
hf://owner/name, timm://name (extra `hub`). OUT is a file, or a folder for one named after SOURCE.
`--config.init=OUT` then starts a run from it.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from checkpoints_convert.conversion import NAMES, convert
from checkpoints_convert.conversion_plan import Options
from checkpoints_convert.hub import download, is_address
from checkpoints_convert.imted import to_published
from checkpoints_convert.layout import PIXELS, Pixels
from checkpoints_convert.reading import Source, read
from checkpoints_convert.report import text
from checkpoints_convert.tensors import State
from checkpoints_convert.vit import to_timm
from checkpoints_convert.writing import write_npz, write_torch
from jaxdet import flags
from jaxdet.config.keys import Vit
from jaxdet.config.schema import keys
from jaxdet.errors import UserError

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
        "--target",
        choices=("backbone", "imted"),
        default="backbone",
        help="what to take of a pre-training: its encoder, or imTED's encoder and decoder",
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
    address, options.source = options.source, Path(options.source)
    source = read(download(address) if isinstance(address, str) else options.source)
    is_converted = options.source.suffix == ".npz" and any(
        name.startswith("backbone.") for name in source.state
    )
    if options.out is None:
        if not is_converted or source.report is None:
            raise UserError(f"give a second path, for what {options.source} is converted to")
        _print_report(source)
        return
    out = _out_path(options.out, options.source, options.to)
    if os.path.realpath(out) == os.path.realpath(options.source):
        raise UserError(f"{out} is the source itself; give another path")
    if options.to == "torch":
        if not is_converted:
            raise UserError(f"{options.source} must be a converted .npz for --to=torch")
        arrays, report, names = _back(source)
        write = partial(write_torch, key="state_dict" if names == "imTED's" else "model")
        summary = f"{len(arrays)} tensors under {names} names"
    else:
        if is_converted:
            raise UserError(f"{options.source} is converted already; give it to --config.init")
        conversion = convert(
            source,
            Options(**{field.name: getattr(options, field.name) for field in fields(Options)}),
            layout=NAMES[options.layout] if options.layout else None,
            pixels=_pixels(options),
            allow_unknown=options.allow_unknown,
        )
        arrays, report, write = conversion.arrays, conversion.report, write_npz
        summary = text(report)
    total = sum(4 * array.size for array in arrays.values())
    with tqdm(
        total=total, unit="B", unit_scale=True, desc=out.name, disable=total < LARGE
    ) as progress:
        write(out, arrays, report, progress.update)
    print(summary)
    print(f"written   {out}")


def _print_report(source: Source) -> None:
    try:
        print(text(source.report))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{source.path}: its report is not the converter's") from error


def _back(source: Source) -> tuple[State, dict[str, Any], str]:
    """An imTED detector as its authors' tensors, the backbone of another converted file as timm's;
    the report it came with, and whose names these are.
    """
    if source.report is None:
        raise UserError(
            f"{source.path} holds no report of where it came from; convert the original again"
        )
    if {"box_head.pos_embed", "rpn.objectness.kernel"} <= source.state.keys():
        return to_published(source.state), source.report, "imTED's"
    backbone = {path: array for path, array in source.state.items() if path.startswith("backbone.")}
    others = len(source.state) - len(backbone)
    if others:
        print(f"{others} arrays of the detector's other parts are left out: timm has none of them")
    return to_timm(backbone, source.report), source.report, "timm's"


def _out_path(out: str, source: Path, to: str) -> Path:
    path = Path(out)
    if out.endswith("/") or path.is_dir():
        return path / f"{source.name.partition('.')[0]}{SUFFIXES[to][0]}"
    if path.suffix not in SUFFIXES[to]:
        raise UserError(f"{out} must end in {' or '.join(SUFFIXES[to])}, or be a folder")
    return path
