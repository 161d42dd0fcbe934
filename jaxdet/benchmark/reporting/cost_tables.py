"""The report's tables of what models cost: by their structure, and as measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ml_collections import ConfigDict

from jaxdet.benchmark.cost.analytic import forward_cost
from jaxdet.benchmark.reporting.groups import RunGroup, Section, statistic
from jaxdet.benchmark.reporting.run import Run
from jaxdet.benchmark.reporting.tables import Cell, Column, Table, name_columns
from jaxdet.benchmark.reporting.text import DASH, UNKNOWN, significant

COUNTED_DETECTIONS = 26
"""RoIs counted in the mask head: what the paper's detectors found in an image on average."""

PARTS = ("backbone", "pyramid", "rpn", "box", "mask")


def cost_tables(section: Section) -> list[Table]:
    """Both tables; none for detections from files."""
    return [] if section.is_from_files else [complexity_table(section), speed_table(section)]


def complexity_table(section: Section) -> Table:
    """Parameters, multiply-adds and activations; groups of the same cost share a row."""
    columns = (
        Column("", is_text=True),
        Column("Model", is_text=True),
        Column("Parameters", title="millions"),
        *(
            Column(part.upper() if part == "rpn" else part, "Multiply-adds, 10\u2079")
            for part in (*PARTS, "in all")
        ),
        Column("Activations", title="outputs of matrix products and convolutions, millions"),
    )
    alike: dict[tuple, list[RunGroup]] = {}
    for each in section.groups:
        alike.setdefault((each.first.parameters, *_cost(each.first)), []).append(each)
    rows = tuple(
        (
            Cell(_letter_ranges(groups, section.groups)),
            Cell(groups[0].model),
            Cell(_millions(parameters)),
            *(Cell(significant(count / 1e9)) for count in (*multiply_adds, sum(multiply_adds))),
            Cell(_millions(activations)),
        )
        for (parameters, multiply_adds, activations), groups in alike.items()
    )
    caption = (
        "What one image's forward pass costs by structure alone: parameters and activations in "
        "millions, multiply-adds in billions, with "
        f"{_detections(section.runs[0])} detections an image"
    )
    return Table(caption, columns, rows)


def speed_table(section: Section) -> Table:
    """Images/s and memory where known, a row a device: rates of different ones have no mean."""
    names = name_columns(section.groups)
    columns = (
        *(column for column, _ in names),
        Column("Training", "Images/s", "the median of the logged rates"),
        Column("Evaluation", "Images/s"),
        Column("Memory, GB", title="peak of one device in training, 10^9 bytes"),
        Column("Devices", is_text=True),
    )
    rows = []
    for i, group in enumerate(section.groups):
        for device in dict.fromkeys(run.device for run in group.runs):
            runs = [run for run in group.runs if run.device == device]
            rates = (
                _mean(run.train_rate for run in runs),
                _mean(run.eval_rate for run in runs),
                _mean(run.memory_gb for run in runs),
            )
            cells = [Cell(significant(rate)) for rate in rates]
            rows.append((*(its[i] for _, its in names), *cells, Cell(device or UNKNOWN)))
    return Table("Speed and memory as measured in these runs", columns, tuple(rows))


def _detections(run: Run) -> int:
    return min(COUNTED_DETECTIONS, run.config["model"]["detector"]["detections"])


def _cost(run: Run) -> tuple[tuple[int, ...], int]:
    """Multiply-adds by PARTS, and activations."""
    costs = forward_cost(
        ConfigDict(run.config),
        len(run.categories),
        proposals=run.config["model"]["detector"]["test_post_nms"],
        masks=_detections(run),
    )
    multiply_adds = dict.fromkeys(PARTS, 0)
    for name, cost in costs.items():
        multiply_adds[name.partition("_")[0]] += cost.multiply_adds
    return tuple(multiply_adds.values()), sum(cost.activations for cost in costs.values())


def _letter_ranges(groups: Sequence[RunGroup], among: Sequence[RunGroup]) -> str:
    """The letters of some of a section's groups, neighbours joined: "A\u2013C, F"."""
    ranges: list[list[int]] = []
    for i, each in enumerate(among):
        if each not in groups:
            continue
        if ranges and ranges[-1][1] == i - 1:
            ranges[-1][1] = i
        else:
            ranges.append([i, i])
    return ", ".join(
        among[first].letter if first == last else f"{among[first].letter}\u2013{among[last].letter}"
        for first, last in ranges
    )


def _millions(count: int | None) -> str:
    return DASH if count is None else significant(count / 1e6)


def _mean(values: Iterable[float | None]) -> float | None:
    found = statistic(values)
    return None if found is None else found.mean
