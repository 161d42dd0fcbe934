"""Trains the rows of a table of arXiv 2111.11429, and prints it with the published numbers.

    python -m jaxdet.benchmark.ablation attention --size=l --init=mae \
        --weights=/weights/mae_vitl.npz --data=/data/coco --workdir=runs/ablations_l

    attention        windowed only, with four global blocks, all global (Table 3)
    scales           the last map alone, or a pyramid (Table 2)
    position         relative biases and the absolute embedding (Table 4, and more)
    epochs           lengths of fine-tuning (Figure 2)
    pretraining      checkpoints of one pre-training: --checkpoint=800=/weights/mae800.npz ...
                     (Figure 3)
    initialisations  each with its weights: --checkpoint=mae=/weights/mae_vitl.npz ... (Table 1)

Rows that several tables share are trained once. Before anything starts, it prints the trials and
what they cost. Each trial is a run of jaxdet.main in a folder of its own; the same command resumes
where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxdet.benchmark.reference import Published, find, published_for
from jaxdet.benchmark.sweep import PRETRAINED, RANDOM
from jaxdet.benchmark.trials import comparison, flags
from jaxdet.benchmark.trials.cost import data_of, plan_text, planned
from jaxdet.benchmark.trials.trials import Trial, check_trial, make_trial, run_trials
from jaxdet.config.keys import INITIALISATIONS, NAME
from jaxdet.errors import UserError

EPOCHS = 50.0
"""Length of the paper's ablations."""

DEFAULT = "default"
"""What the folder of a row is called that is the recipe itself."""


class Row(NamedTuple):
    """A row of a table: its text, a short name, and the words of the config that make it."""

    text: str
    name: str
    words: dict[str, Any]


class Plan(NamedTuple):
    """A row's trial, and what is published of it.

    Attributes:
        published: if the data are COCO.
        is_recipe: whether the model's structure is the recipe's own.
    """

    text: str
    trial: Trial
    published: Published | None
    is_recipe: bool = True


def attention(config: ConfigDict) -> list[Row]:
    """Table 3; all blocks global fit in memory only with rematerialisation."""
    blocks = "model.vit.global_blocks"
    every = tuple(range(config.model.vit.depth))
    return [
        Row("windowed only", "windowed", {blocks: ()}),
        Row(f"windowed and {len(config.model.vit.global_blocks)} global", DEFAULT, {}),
        Row("all global, rematerialised", "global", {blocks: every, "model.vit.remat": "block"}),
    ]


def scales(config: ConfigDict) -> list[Row]:
    """Table 2."""
    stride = (config.model.vit.patch,)
    single = {"model.pyramid.kind": "single", "model.detector.strides": stride}
    return [Row("single scale", "single", single), Row("FPN", DEFAULT, {})]


def position(config: ConfigDict) -> list[Row]:
    """Table 4, and other starts of the absolute embedding than the recipe's."""
    absolute, relative = "model.vit.absolute_position", "model.vit.relative_position"
    start = config.model.vit.relative_start
    rows = [
        Row(
            f"absolute {config.model.vit.absolute_position}, relative {start}",
            DEFAULT,
            {},
        )
    ]
    if start == "pretrained":
        rows.append(Row("relative zero", "relzero", {"model.vit.relative_start": "zero"}))
    rows.append(Row("no relative", "norel", {relative: "none"}))
    rows += [
        Row(f"absolute {kind}" if kind != "none" else "no absolute", f"abs{kind}", {absolute: kind})
        for kind in ("random", "sincos", "none")
        if kind != config.model.vit.absolute_position
    ]
    return rows


TABLES = {"attention": attention, "scales": scales, "position": position}
"""Tables whose rows differ in words of the config alone, all of the same length."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return flags.run_stoppable(lambda: _ablation(arguments))


def _ablation(arguments: list[str] | None) -> None:
    given, words = flags.read_arguments(_parser(), arguments)
    every = list(plans(given, words))
    config = next(row.trial.config for row in every if row.is_recipe)
    rows = _chosen(every, given.rows)
    for row in rows:
        check_trial(row.trial, needs_weights=not given.dry_run)
    data = data_of(config)
    speed = flags.speed_of(given, config, data)
    costs = [planned(row.text, [row.trial.config], data, speed) for row in rows]
    print(f"{given.table}: {len(rows)} rows in {given.workdir}")
    print(plan_text(costs, data, speed))
    if given.dry_run:
        return
    outcomes = run_trials([row.trial for row in rows], flags.executor_of(given))
    table = [
        comparison.Row(row.text, outcome, row.published if data.is_coco else None)
        for row, outcome in zip(rows, outcomes, strict=True)
    ]
    print(f"\n{comparison.markdown(table, given.table)}")


def _parser() -> argparse.ArgumentParser:
    parser = flags.shared_parser(__doc__, default_size="l")
    add = parser.add_argument
    add("table", choices=(*TABLES, "epochs", "pretraining", "initialisations"))
    add(
        "--epochs",
        type=flags.numbers,
        help="of each row; default 50, the three of the paper for `epochs`, and the config's own "
        "for `initialisations`",
    )
    add(
        "--checkpoint",
        action="append",
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
            f"{text!r} is not NAME=FILE, the name of small letters, digits, dots, hyphens and "
            "underscores"
        )
    return name, Path(file)


def _chosen(rows: list[Plan], numbers: str | None) -> list[Plan]:
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


def plans(given: argparse.Namespace, words: tuple[str, ...]) -> Iterator[Plan]:
    """The rows of a table and their trials.

    Raises:
        UserError: flags that the table has no use for, or lacks.
    """
    names = [name for name, _ in given.checkpoint or ()]
    if len(set(names)) < len(names):
        raise UserError("two of --checkpoint=NAME=FILE have the same name; give each its own")
    if given.table in ("pretraining", "initialisations"):
        if given.weights is not None:
            raise UserError(f"{given.table} takes --checkpoint=NAME=FILE for each, not --weights")
        if given.table == "pretraining" and not given.checkpoint:
            raise UserError(
                "pretraining compares checkpoints: give --checkpoint=NAME=FILE for each"
            )
    elif given.checkpoint:
        raise UserError(f"{given.table} takes --weights=FILE, not --checkpoint")
    if given.table == "initialisations":
        yield from _initialisations(given, words)
    elif given.table == "pretraining":
        yield from _pretraining(given, words)
    else:
        base = flags.base_arguments(given, words, given.init, given.weights)
        config = make_trial(given.workdir, "base", base).config
        label = flags.label_of(given, config.initialisation)
        if given.table == "epochs":
            protocol = RANDOM if config.initialisation == "random" else PRETRAINED
            for epochs in given.epochs or protocol.epochs_final:
                trial = _trial(given, label, DEFAULT, base, {"epochs": epochs})
                yield Plan(f"{epochs:g} epochs", trial, published_for(trial.config))
        else:
            for row in TABLES[given.table](config):
                trial = _trial(
                    given, label, row.name, base, {"epochs": _length(given), **row.words}
                )
                yield Plan(row.text, trial, published_for(trial.config), row.name == DEFAULT)


def _length(given: argparse.Namespace) -> float:
    if given.epochs is None:
        return EPOCHS
    if len(given.epochs) != 1:
        raise UserError(f"{given.table} has rows of one length: give a single number to --epochs")
    return given.epochs[0]


def _trial(
    given: argparse.Namespace,
    label: str,
    name: str,
    base: tuple[str, ...],
    words: dict[str, Any],
) -> Trial:
    return make_trial(given.workdir, f"{label}_{name}_{words['epochs']:.12g}ep", base, words)


def _pretraining(given: argparse.Namespace, words: tuple[str, ...]) -> Iterator[Plan]:
    """Figure 3: the name of a checkpoint is the epochs of its pre-training, or any other."""
    for name, file in given.checkpoint:
        base = flags.base_arguments(given, words, given.init, file)
        config = make_trial(given.workdir, "base", base).config
        label = flags.label_of(given, config.initialisation)
        trial = _trial(given, label, f"from_{name}", base, {"epochs": _length(given)})
        yield Plan(f"pre-training {name}", trial, _published_pretraining(name, trial.config))


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


def _initialisations(given: argparse.Namespace, words: tuple[str, ...]) -> Iterator[Plan]:
    """Table 1: random initialisation and those that weights are given of."""
    if given.init is not None or given.config is not None:
        raise UserError("initialisations are named by --checkpoint=NAME=FILE, not by --init")
    files = dict(given.checkpoint or ())
    if "random" in files:
        raise UserError("random initialisation has no weights; leave out --checkpoint=random=...")
    known = [name for name in INITIALISATIONS if name in files]
    own = [name for name in files if name not in INITIALISATIONS]
    for name in ("random", *known, *own):
        base = flags.base_arguments(given, words, name, files.get(name))
        config = make_trial(given.workdir, "base", base).config
        epochs = config.epochs if given.epochs is None else _length(given)
        label = flags.label_of(given, name)
        trial = _trial(given, label, DEFAULT, base, {"epochs": epochs})
        text = f"{name}, {trial.config.epochs:g} epochs"
        yield Plan(text, trial, published_for(trial.config))


if __name__ == "__main__":
    sys.exit(main())
