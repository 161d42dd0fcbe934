"""The report's tables as rows of cells, for HTML and Markdown alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from ml_collections import ConfigDict

from jaxdet.benchmark.complexity import Cost, forward_cost, total
from jaxdet.benchmark.reporting.charts import decimal, signed
from jaxdet.benchmark.reporting.groups import Configuration, Statistic, Table, statistic
from jaxdet.benchmark.reporting.recipes import DETECTIONS
from jaxdet.benchmark.reporting.runs import TIDE_ERRORS, Run
from jaxdet.benchmark.reporting.text import (
    CERTAINTY_NAMES,
    DASH,
    ERROR_NAMES,
    KIND_NAMES,
    KIND_PLURALS,
    UNSURE,
    initialisation_name,
    points,
    published_value,
    significant,
    source_link,
    source_note,
)

COUNTED_DETECTIONS = 26
"""RoIs counted in the mask head: what the paper's detectors found in an image on average."""

SHOWN_CATEGORIES = 5


@dataclass(frozen=True)
class Head:
    """A column: its name, the group it is in, a longer explanation, and whether it holds text."""

    text: str
    group: str = ""
    title: str = ""
    is_text: bool = False


@dataclass(frozen=True)
class Cell:
    """What stands in a row and column; lines of text are divided by newlines.

    Attributes:
        note: number of the footnote, 0 for none.
        mark: how unsure a published number is: a sign, with `title` saying it.
        key: of the configuration that the row is of.
        is_best: whether it is the best of its column.
        is_code: whether it is a digest.
    """

    text: str
    title: str = ""
    note: int = 0
    mark: str = ""
    key: str = ""
    is_best: bool = False
    is_code: bool = False


@dataclass(frozen=True)
class Note:
    """A footnote, and the title and address of its source if it has one."""

    text: str
    link: tuple[str, str] | None = None


@dataclass(frozen=True)
class Grid:
    """A table."""

    caption: str
    heads: tuple[Head, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[Note, ...] = field(default=())


NAMES = (Head("", is_text=True), Head("Initialisation", is_text=True), Head("Model", is_text=True))


def ap_grid(table: Table) -> Grid:
    """AP by configuration, the published number and the difference beside it."""
    notes: list[Note] = []
    kinds, members = table.kinds, table.configurations
    heads = [*NAMES, Head("Epochs")]
    columns: list[list[Cell]] = [[_epochs(each) for each in members]]
    for kind in kinds:
        group = f"{KIND_NAMES[kind].capitalize()} AP"
        heads += [Head("ours", group), Head("published", group)]
        columns += [
            _best(members, lambda each, kind=kind: each.coco(kind)),
            [_published(each, kind, notes) for each in members],
        ]
        if any(each.published for each in members):
            heads.append(Head("difference", group, "ours less published, in points"))
            columns.append([_difference(each, kind) for each in members])
    few_shot = [
        (name, f"{classes.capitalize()} classes")
        for classes in ("base", "novel")
        for name in (f"{classes}_bbox",)
        if any(each.few_shot(name) for each in members)
    ]
    for name, title in few_shot:
        heads.append(Head(title, "Box AP of"))
        columns.append(_best(members, lambda each, name=name: each.few_shot(name)))
    if any(len(each.runs) > 1 for each in members):
        heads.append(Head("n", title="runs, which differ in the seed at most"))
        columns.append([Cell(str(len(each.runs))) for each in members])
    heads.append(Head("Config \u00b7 weights", title="SHA-256, first digits", is_text=True))
    columns.append([_digests(each) for each in members])
    rows = zip(*_names(members), *columns, strict=True)
    return Grid("", tuple(heads), tuple(rows), tuple(notes))


def coco_grid(table: Table, kind: str) -> Grid:
    """All of COCO's numbers for boxes or masks."""
    members = table.configurations
    names = dict.fromkeys(
        name
        for each in members
        for run in each.runs
        if kind in run.scores
        for name in run.scores[kind].coco
    )
    columns = [_best(members, lambda each, name=name: each.coco(kind, name)) for name in names]
    rows = zip(*_names(members), *columns, strict=True)
    heads = (*NAMES, *(Head(name) for name in names))
    return Grid(f"COCO's numbers for {KIND_PLURALS[kind]}, in points", heads, tuple(rows))


def tide_grid(table: Table, kind: str) -> Grid | None:
    """Absolute AP lost to each type of error; None where no run has it."""
    members = table.configurations
    costs = {error: [each.tide(kind, error) for each in members] for error in TIDE_ERRORS}
    if not any(cost for its in costs.values() for cost in its):
        return None
    columns = [[Cell(points(cost)) for cost in its] for its in costs.values()]
    rows = zip(*_names(members), *columns, strict=True)
    heads = (*NAMES, *(Head(error, title=ERROR_NAMES[error]) for error in TIDE_ERRORS))
    caption = f"AP of {KIND_PLURALS[kind]} at IoU .5 lost to each type of error, in points"
    return Grid(caption, heads, tuple(rows))


def complexity_grid(table: Table) -> Grid | None:
    """Parameters, multiply-adds and activations; configurations of the same cost share a row.

    None for detections from files.
    """
    if table.recipe[DETECTIONS] == "from a file":
        return None
    parts = ("backbone", "pyramid", "rpn", "box", "mask")
    costs: dict[tuple, list[Configuration]] = {}
    for each in table.configurations:
        costs.setdefault((each.first.parameters, _cost(each.first)), []).append(each)
    heads = (
        Head("", is_text=True),
        Head("Model", is_text=True),
        Head("Parameters", title="millions"),
        *(
            Head(part.upper() if part == "rpn" else part, "Multiply-adds, 10\u2079")
            for part in (*parts, "in all")
        ),
        Head("Activations", title="outputs of matrix products and convolutions, millions"),
    )
    rows = []
    for (parameters, cost), members in costs.items():
        by_part = {part: Cost() for part in parts}
        for name, its in cost:
            part = name.partition("_")[0]
            by_part[part] = total([by_part[part], its])
        whole = total(by_part.values())
        rows.append(
            (
                Cell(_key_ranges(members, table.configurations)),
                Cell(members[0].model),
                Cell(_millions(parameters)),
                *(Cell(significant(c.multiply_adds / 1e9)) for c in (*by_part.values(), whole)),
                Cell(_millions(whole.activations)),
            )
        )
    detections = min(
        COUNTED_DETECTIONS, table.configurations[0].first.config["model"]["detector"]["detections"]
    )
    caption = (
        "What one image's forward pass costs by structure alone: parameters and activations in "
        f"millions, multiply-adds in billions, with {detections} detections an image"
    )
    return Grid(caption, heads, tuple(rows))


def speed_grid(table: Table) -> Grid | None:
    """Images/s and memory where told; None for detections from files."""
    if table.recipe[DETECTIONS] == "from a file":
        return None
    heads = (
        *NAMES,
        Head("Training", "Images/s", "the median of the logged rates"),
        Head("Evaluation", "Images/s"),
        Head("Memory, GB", title="peak of one device in training, 10^9 bytes"),
        Head("Devices", is_text=True),
    )
    rows = []
    for name, each in zip(
        zip(*_names(table.configurations), strict=True), table.configurations, strict=True
    ):
        # Rates of different devices have no mean.
        devices = dict.fromkeys(run.device or "not told" for run in each.runs)
        runs = {
            device: [r for r in each.runs if (r.device or "not told") == device]
            for device in devices
        }
        for device, its in runs.items():
            rows.append(
                (
                    *name,
                    *(
                        Cell(significant(_mean(getattr(run, value) for run in its)))
                        for value in ("train_rate", "eval_rate", "memory_gb")
                    ),
                    Cell(device),
                )
            )
    return Grid("Speed and memory as measured in these runs", heads, tuple(rows))


def category_grid(table: Table, kind: str) -> Grid:
    """AP of every category."""
    heads = (
        Head("Category", is_text=True),
        *(Head(each.key, title=initialisation_name(each)) for each in table.configurations),
    )
    rows = []
    for name in table.categories:
        values = [each.category(kind, name) for each in table.configurations]
        rows.append((Cell(name), *_marked(values)))
    return Grid(f"{KIND_NAMES[kind].capitalize()} AP by category", heads, tuple(rows))


def category_gains(
    base: Configuration, other: Configuration, categories: Iterable[str]
) -> list[tuple[str, float]]:
    """The categories whose box AP gains and loses most, in points, best gains first."""
    gains = []
    for name in categories:
        before, after = base.category("bbox", name), other.category("bbox", name)
        if before and after:
            gains.append((name, 100 * (after.mean - before.mean)))
    gains.sort(key=lambda gain: -gain[1])
    if len(gains) <= 2 * SHOWN_CATEGORIES:
        return gains
    return gains[:SHOWN_CATEGORIES] + gains[-SHOWN_CATEGORIES:]


def comparisons(table: Table) -> list[tuple[Configuration, Configuration]]:
    """Pairs whose categories are compared: each with the first of its model in the table, which is
    random initialisation where there is one."""
    firsts: dict[str, Configuration] = {}
    pairs = []
    for each in table.configurations:
        base = firsts.setdefault(each.model, each)
        if base is not each:
            pairs.append((base, each))
    return pairs


def _names(members: Sequence[Configuration]) -> list[list[Cell]]:
    return [
        [Cell(each.key, key=each.key) for each in members],
        [Cell(initialisation_name(each)) for each in members],
        [Cell(each.model) for each in members],
    ]


def _epochs(each: Configuration) -> Cell:
    if each.epochs is None:
        return Cell(DASH, "evaluated as given, not trained in this run")
    return Cell(f"{each.epochs:g}")


def _published(each: Configuration, kind: str, notes: list[Note]) -> Cell:
    value, certainty = published_value(each.published, kind)
    if each.published is None:
        return Cell(DASH, note=_note(notes, Note(f"{each.unpublished}.")))
    note = _note(notes, Note(source_note(each), source_link(each.published)))
    if value is None:
        return Cell(DASH, "not published", note=note)
    return Cell(decimal(value), CERTAINTY_NAMES[certainty], note, UNSURE.get(certainty, ""))


def _note(notes: list[Note], note: Note) -> int:
    if note not in notes:
        notes.append(note)
    return notes.index(note) + 1


def _difference(each: Configuration, kind: str) -> Cell:
    ours, (published, _) = each.coco(kind), published_value(each.published, kind)
    if ours is None or published is None:
        return Cell(DASH)
    return Cell(signed(100 * ours.mean - published))


def _best(
    members: Sequence[Configuration], value: Callable[[Configuration], Statistic | None]
) -> list[Cell]:
    return _marked([value(each) for each in members])


def _marked(values: Sequence[Statistic | None]) -> list[Cell]:
    """Cells of numbers; those that print as the best are marked, where others do not."""
    cells = [Cell(points(value)) for value in values]
    shown = [round(100 * value.mean, 1) for value in values if value is not None]
    if len(set(shown)) < 2:
        return cells
    return [
        replace(cell, is_best=value is not None and round(100 * value.mean, 1) == max(shown))
        for cell, value in zip(cells, values, strict=True)
    ]


def _digests(each: Configuration) -> Cell:
    lines, titles = [], []
    for run in each.runs:
        weights = run.checkpoint_sha256
        lines.append(f"{run.config_sha256[:7]} \u00b7 {weights[:7] if weights else 'not told'}")
        titles.append(f"config {run.config_sha256}, weights {weights or 'not told'}")
    return Cell("\n".join(lines), "\n".join(titles), key=each.key, is_code=True)


def _cost(run: Run) -> tuple[tuple[str, Cost], ...]:
    detector = run.config["model"]["detector"]
    costs = forward_cost(
        ConfigDict(run.config),
        len(run.scores["bbox"].per_category),
        proposals=detector["test_post_nms"],
        masks=min(COUNTED_DETECTIONS, detector["detections"]),
    )
    return tuple(costs.items())


def _key_ranges(members: Sequence[Configuration], among: Sequence[Configuration]) -> str:
    """The keys of some of a table's configurations, neighbours joined: "A\u2013C, F"."""
    ranges: list[list[int]] = []
    for i, each in enumerate(among):
        if each not in members:
            continue
        if ranges and ranges[-1][1] == i - 1:
            ranges[-1][1] = i
        else:
            ranges.append([i, i])
    return ", ".join(
        among[first].key if first == last else f"{among[first].key}\u2013{among[last].key}"
        for first, last in ranges
    )


def _millions(count: int | None) -> str:
    return DASH if count is None else significant(count / 1e6)


def _mean(values: Iterable[float | None]) -> float | None:
    number = statistic(values)
    return None if number is None else number.mean
