"""Trains the rows of a table of arXiv 2111.11429 or of ViTDet, and prints it with the published
numbers.

    jaxdet ablation attention --size=l --init=mae \\
        --weights=/weights/mae_vitl.npz --data=/data/coco --workdir=runs/ablations_l

    attention        windowed only, with four global blocks, all global (Table 3)
    scales           the last map alone, or a pyramid (Table 2)
    position         relative biases and the absolute embedding (Table 4, and more)
    epochs           lengths of fine-tuning (Figure 2)
    pretraining      checkpoints of one pre-training: --checkpoint=800=/weights/mae800.npz ...
                     (Figure 3)
    initialisations  each with its weights: --checkpoint=mae=/weights/mae_vitl.npz ... (Table 1)

and of ViTDet (arXiv 2203.16527), from the config vitdet_b_mae, _l_ or _h_:

    vitdet-pyramid      no pyramid, FPN of four stages or of the last map, simple (Table 1)
    vitdet-propagation  windows alone, global blocks, convolutions, shifted windows; which and how
                        many blocks (Table 2, Table 8)
    vitdet-cost         what these need; nothing is trained (Table 3)

Rows that several tables share are trained once. Before anything starts, it prints the trials and
what they cost. Each trial is a run of `jaxdet train` in a folder of its own; the same command
resumes where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxdet.benchmark.ablation_vitdet import Variant, cost_table, propagation, pyramids
from jaxdet.benchmark.reference import Published, find, published_for
from jaxdet.benchmark.trials import comparison, flags
from jaxdet.benchmark.trials.cost import data_of, plan_text, stage_cost
from jaxdet.benchmark.trials.runner import run_trials
from jaxdet.benchmark.trials.search import PRETRAINED, RANDOM
from jaxdet.benchmark.trials.trial import Base, Trial, check_trial, make_trial
from jaxdet.config.keys import INITIALISATIONS, NAME
from jaxdet.errors import UserError
from jaxdet.flags import Parser, run_main

EPOCHS = 50.0
"""Length of the paper's ablations."""

DEFAULT = "default"
"""What the folder of a row is called that is the recipe itself."""


class TableRow(NamedTuple):
    """A row's trial, and what is published of it.

    Attributes:
        published: if the data are COCO.
        is_recipe: whether the model's structure is the recipe's own.
    """

    text: str
    trial: Trial
    published: Published | None
    is_recipe: bool = True


def attention(config: ConfigDict) -> list[Variant]:
    """Table 3; all blocks global fit in memory only with rematerialisation."""
    blocks = "model.vit.global_blocks"
    every = tuple(range(config.model.vit.depth))
    return [
        Variant("windowed only", "windowed", {blocks: ()}),
        Variant(f"windowed and {len(config.model.vit.global_blocks)} global", DEFAULT, {}),
        Variant(
            "all global, rematerialised", "global", {blocks: every, "model.vit.remat": "block"}
        ),
    ]


def scales(config: ConfigDict) -> list[Variant]:
    """Table 2."""
    stride = (config.model.vit.patch,)
    single = {"model.pyramid.kind": "single", "model.detector.strides": stride}
    return [Variant("single scale", "single", single), Variant("FPN", DEFAULT, {})]


def position(config: ConfigDict) -> list[Variant]:
    """Table 4, and other starts of the absolute embedding than the recipe's."""
    absolute, relative = "model.vit.absolute_position", "model.vit.relative_position"
    start = config.model.vit.relative_start
    rows = [
        Variant(f"absolute {config.model.vit.absolute_position}, relative {start}", DEFAULT, {})
    ]
    if start == "pretrained":
        rows.append(Variant("relative zero", "relzero", {"model.vit.relative_start": "zero"}))
    rows.append(Variant("no relative", "norel", {relative: "none"}))
    rows += [
        Variant(
            f"absolute {kind}" if kind != "none" else "no absolute", f"abs{kind}", {absolute: kind}
        )
        for kind in ("random", "sincos", "none")
        if kind != config.model.vit.absolute_position
    ]
    return rows


VITDET = {"vitdet-pyramid": pyramids, "vitdet-propagation": propagation}
"""Tables of ViTDet, whose rows are as long as its recipe."""

COST = "vitdet-cost"

VARIANTS = {"attention": attention, "scales": scales, "position": position, **VITDET}
"""Tables whose rows differ in keys of the config alone, all of the same length."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_main(lambda: _run(arguments), resumes=True)


def _run(arguments: list[str] | None) -> None:
    options, overrides = flags.read_arguments(_parser(), arguments)
    if options.table == COST:
        print(cost_table(_base(options, overrides).config))
        return
    every = list(table_rows(options, overrides))
    config = next(row.trial.config for row in every if row.is_recipe)
    rows = _chosen(every, options.rows)
    for row in rows:
        check_trial(row.trial, needs_weights=not options.dry_run)
    data = data_of(config)
    speed = flags.speed_of(options, config, data)
    costs = [stage_cost(row.text, [row.trial.config], data, speed) for row in rows]
    print(f"{options.table}: {len(rows)} rows in {options.workdir}")
    print(plan_text(costs, data, speed))
    if options.dry_run:
        return
    outcomes = run_trials([row.trial for row in rows], flags.executor_of(options))
    results = [
        comparison.ComparedResult(row.text, outcome, row.published if data.is_coco else None)
        for row, outcome in zip(rows, outcomes, strict=True)
    ]
    print(f"\n{comparison.markdown(results, options.table)}")


def _parser() -> Parser:
    parser = flags.shared_parser("jaxdet ablation", __doc__, default_size="l")
    add = parser.add_argument
    add("table", choices=(*VARIANTS, COST, *CHECKPOINT_TABLES, "epochs"))
    add(
        "--epochs",
        type=flags.numbers,
        help="of each row; default 50, the three of the paper for `epochs`, and the config's own "
        "for `initialisations` and ViTDet's",
    )
    add(
        "--checkpoint",
        action="append",
        default=[],
        type=_checkpoint,
        metavar="NAME=FILE",
        help="converted weights of a row; once for each",
    )
    add("--rows", help="only these, their numbers with commas between, counted from 1")
    return parser


def _checkpoint(text: str) -> tuple[str, Path]:
    name, equals, file = text.partition("=")
    if not equals or not file or not NAME.fullmatch(name):
        raise argparse.ArgumentTypeError(
            f"{text!r} must be NAME=FILE, the name of lowercase letters, digits, dots, hyphens "
            "and underscores"
        )
    return name, Path(file)


def _chosen(rows: list[TableRow], numbers: str | None) -> list[TableRow]:
    if numbers is None:
        return rows
    try:
        chosen = [int(number) for number in numbers.split(",")]
        if not all(1 <= number <= len(rows) for number in chosen):
            raise ValueError
    except ValueError as error:
        texts = ", ".join(f"{number} {row.text}" for number, row in enumerate(rows, 1))
        raise UserError(f"--rows={numbers} takes numbers of these rows: {texts}") from error
    return [rows[number - 1] for number in chosen]


def table_rows(options: argparse.Namespace, overrides: tuple[str, ...]) -> Iterator[TableRow]:
    """The rows of a table and their trials.

    Raises:
        UserError: flags that the table has no use for, or lacks.
    """
    names = [name for name, _ in options.checkpoint]
    if len(set(names)) < len(names):
        raise UserError("two of --checkpoint=NAME=FILE have the same name; give each its own")
    if options.table in CHECKPOINT_TABLES:
        if options.weights is not None:
            raise UserError(f"{options.table} takes --checkpoint=NAME=FILE for each, not --weights")
        return CHECKPOINT_TABLES[options.table](options, overrides)
    if names:
        raise UserError(f"{options.table} takes --weights=FILE, not --checkpoint")
    base = _base(options, overrides)
    if options.table == "epochs":
        return _lengths(options, base)
    return _variants(options, base)


def _base(options: argparse.Namespace, overrides: tuple[str, ...]) -> Base:
    """What the rows start from; sets the config that ViTDet's tables are of."""
    if options.config is None and options.table in (*VITDET, COST):
        options.config = f"vitdet_{options.size}_mae"
    return flags.make_base(options, overrides, options.init, options.weights)


def _variants(options: argparse.Namespace, base: Base) -> Iterator[TableRow]:
    for variant in VARIANTS[options.table](base.config):
        is_vitdet = options.table in VITDET and options.epochs is None
        length = base.config.epochs if is_vitdet else _length(options)
        changes = {"epochs": length, **variant.overrides}
        trial = _trial(options, variant.name, base, changes)
        is_recipe = variant.name == ("norel" if options.table in VITDET else DEFAULT)
        yield TableRow(variant.text, trial, published_for(trial.config), is_recipe)


def _lengths(options: argparse.Namespace, base: Base) -> Iterator[TableRow]:
    """Figure 2."""
    space = RANDOM if base.config.initialisation == "random" else PRETRAINED
    for epochs in options.epochs or space.epochs_final:
        trial = _trial(options, DEFAULT, base, {"epochs": epochs})
        yield TableRow(f"{epochs:g} epochs", trial, published_for(trial.config))


def _pretraining(options: argparse.Namespace, overrides: tuple[str, ...]) -> Iterator[TableRow]:
    """Figure 3: the name of a checkpoint is the epochs of its pre-training, or any other."""
    if not options.checkpoint:
        raise UserError("pretraining compares checkpoints: give --checkpoint=NAME=FILE for each")
    for name, file in options.checkpoint:
        base = flags.make_base(options, overrides, options.init, file)
        trial = _trial(options, f"from_{name}", base, {"epochs": _length(options)})
        yield TableRow(f"pre-training {name}", trial, _published_pretraining(name, trial.config))


def _published_pretraining(name: str, config: ConfigDict) -> Published | None:
    """What is published of MAE pre-trained for so many epochs; 1600 is the recipe's own."""
    recipe = published_for(config)
    if recipe is None or recipe.variant != "default" or recipe.initialisation != "mae":
        return None
    if name == "1600":
        return recipe
    return find(
        recipe.system,
        recipe.backbone,
        recipe.initialisation,
        config.epochs,
        variant=f"{name} epochs of pre-training",
    )


def _initialisations(options: argparse.Namespace, overrides: tuple[str, ...]) -> Iterator[TableRow]:
    """Table 1: random initialisation and those that weights are given of."""
    if options.init is not None or options.config is not None:
        raise UserError("initialisations are named by --checkpoint=NAME=FILE, not by --init")
    files = dict(options.checkpoint)
    if "random" in files:
        raise UserError("random initialisation has no weights; leave out --checkpoint=random=...")
    known = [name for name in INITIALISATIONS if name in files]
    own = [name for name in files if name not in INITIALISATIONS]
    for name in ("random", *known, *own):
        base = flags.make_base(options, overrides, name, files.get(name))
        epochs = base.config.epochs if options.epochs is None else _length(options)
        trial = _trial(options, DEFAULT, base, {"epochs": epochs})
        yield TableRow(f"{name}, {epochs:g} epochs", trial, published_for(trial.config))


CHECKPOINT_TABLES = {"pretraining": _pretraining, "initialisations": _initialisations}
"""Tables whose rows differ in what they start from."""


def _length(options: argparse.Namespace) -> float:
    if options.epochs is None:
        return EPOCHS
    if len(options.epochs) != 1:
        raise UserError(f"{options.table} has rows of one length: give a single number to --epochs")
    return options.epochs[0]


def _trial(options: argparse.Namespace, name: str, base: Base, overrides: dict[str, Any]) -> Trial:
    label = flags.label_of(options, base.config.initialisation)
    folder = f"{label}_{name}_{overrides['epochs']:.12g}ep"
    return make_trial(options.workdir, folder, base, overrides)


if __name__ == "__main__":
    sys.exit(main())
