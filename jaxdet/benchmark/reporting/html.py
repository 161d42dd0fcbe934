"""The report as one HTML page: nothing to load, no script, every text escaped."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from itertools import groupby
from pathlib import Path

from PIL import Image

from jaxdet import __version__
from jaxdet.benchmark.reporting.charts import (
    Series,
    bar_chart,
    difference_chart,
    line_chart,
    swatch,
)
from jaxdet.benchmark.reporting.groups import Configuration, Table
from jaxdet.benchmark.reporting.runs import TIDE_ERRORS, Run, Skipped
from jaxdet.benchmark.reporting.tables import (
    Cell,
    Grid,
    Head,
    Note,
    ap_grid,
    category_gains,
    category_grid,
    coco_grid,
    comparisons,
    complexity_grid,
    speed_grid,
    tide_grid,
)
from jaxdet.benchmark.reporting.text import (
    CERTAINTY_NAMES,
    ERROR_NAMES,
    KIND_NAMES,
    KIND_PLURALS,
    UNSURE,
    initialisation_name,
    recipe_title,
    series_of,
    validation,
    value_text,
)
from jaxdet.data.image import LARGEST_IMAGE

LARGEST_PICTURE = 150_000
PICTURE_WIDTH = 1200
SHOWN_DIFFERENCES = 6


def page(tables: Sequence[Table], skipped: Sequence[Skipped]) -> str:
    """The whole page."""
    style = (files("jaxdet.benchmark.reporting") / "report.css").read_text(encoding="utf-8")
    names = run_names(run for table in tables for each in table.configurations for run in each.runs)
    sections = "\n".join(_table_section(table, len(tables)) for table in tables)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="jaxdet {escape(__version__)}">
<title>Detection transfer: {escape(_count_text(tables))}</title>
<style>
{style}</style>
</head>
<body>
<main>
{_introduction(tables)}
{sections}
{_provenance(tables, names)}
{_left_out(skipped)}
</main>
</body>
</html>
"""


def run_names(runs: Iterable[Run]) -> dict[Path, str]:
    """Each run's folder without what all of them share, so that no path of the machine is shown."""
    folders = [run.folder.resolve() for run in runs]
    shared = folders[0].parent if len(folders) == 1 else Path(os.path.commonpath(folders))
    return {folder: folder.relative_to(shared).as_posix() for folder in folders}


def _introduction(tables: Sequence[Table]) -> str:
    several = ""
    if len(tables) > 1:
        links = "".join(
            f'<li><a href="#recipe-{table.number}">Recipe {table.number}: '
            f"{escape(recipe_title(table.recipe))}</a> "
            f'<span class="quiet">{escape(", ".join(each.key for each in table.configurations))}'
            "</span></li>"
            for table in tables
        )
        several = (
            f'<p class="warning"><strong>These runs are of {len(tables)} recipes.</strong> Numbers '
            "of different recipes are not comparable, so each recipe has tables of its own, headed "
            f'by what it does differently.</p>\n<ol class="contents">{links}</ol>'
        )
    return f"""<header>
<p class="kicker">jaxdet benchmark report</p>
<h1>How well do pre-trained Vision Transformers transfer to detection?</h1>
<p class="lead">{escape(_count_text(tables))}. AP is COCO's, in points; higher is better. Letters
name configurations in every table and chart, and lead to where each number comes from.</p>
{several}
</header>"""


def _count_text(tables: Sequence[Table]) -> str:
    members = [each for table in tables for each in table.configurations]
    runs = sum(len(each.runs) for each in members)
    return ", ".join(
        (
            _counted(runs, "run"),
            _counted(len(members), "configuration"),
            _counted(len(tables), "recipe"),
        )
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _table_section(table: Table, of: int) -> str:
    number = table.number
    heading = f"Recipe {number}: {recipe_title(table.recipe)}" if of > 1 else "Results"
    subtitle = f"Validated on {validation(table.recipe)}."
    if of == 1:
        subtitle = f"{recipe_title(table.recipe)}. {subtitle}"
    ap = ap_grid(table)
    coco = [_grid(coco_grid(table, kind), f"coco-{kind}-{number}") for kind in table.kinds]
    tide = [
        _grid(grid, f"tide-{kind}-{number}")
        for kind in table.kinds
        if (grid := tide_grid(table, kind))
    ]
    parts = [
        f'<section id="recipe-{number}" aria-labelledby="recipe-{number}-title">',
        f'<h2 id="recipe-{number}-title">{escape(heading)}</h2>',
        f'<p class="subtitle">{escape(subtitle)}</p>',
        _differences(table),
        _grid(ap, f"ap-{number}", "AP by initialisation and model"),
        _legend(table, ap),
        _curves(table),
        _tide(table),
        _details("COCO's other numbers", "".join(coco)),
        _details("The errors' costs as numbers", "".join(tide)) if tide else "",
        _categories(table),
        _costs(table),
        _pictures(table),
        _details("The recipe, word by word", _recipe(table)),
        "</section>",
    ]
    return "\n".join(part for part in parts if part)


def _costs(table: Table) -> str:
    grids = {"cost": complexity_grid(table), "speed": speed_grid(table)}
    drawn = [_grid(grid, f"{name}-{table.number}") for name, grid in grids.items() if grid]
    return f"<h3>Cost</h3>{''.join(drawn)}" if drawn else ""


def _differences(table: Table) -> str:
    if not table.differences:
        return ""
    rows = [
        f'<tr><th scope="row"><code>{escape(word)}</code></th><td>{escape(value_text(here))}</td>'
        f"<td>{escape(value_text(there))}</td></tr>"
        for word, here, there in table.differences
    ]

    def listed(some: list[str]) -> str:
        return (
            '<div class="scroll"><table class="words"><thead><tr><th scope="col">Word</th>'
            '<th scope="col">here</th><th scope="col">recipe 1</th></tr></thead>'
            f"<tbody>{''.join(some)}</tbody></table></div>"
        )

    more = rows[SHOWN_DIFFERENCES:]
    rest = _details(f"{len(more)} more", listed(more)) if more else ""
    return (
        f'<div class="differs"><p><strong>Not comparable with recipe 1</strong>, which it differs '
        f"from in {_counted(len(rows), 'word')}:</p>{listed(rows[:SHOWN_DIFFERENCES])}{rest}</div>"
    )


def _legend(table: Table, grid: Grid) -> str:
    told = []
    if any(each.published for each in table.configurations):
        told.append("Published numbers are those of the same model, initialisation and length.")
    meanings = {UNSURE[certainty]: CERTAINTY_NAMES[certainty] for certainty in UNSURE}
    for mark in sorted({cell.mark for row in grid.rows for cell in row if cell.mark}):
        told.append(f'<span class="unsure">{escape(mark)}</span>: {escape(meanings[mark])}.')
    if any(len(each.runs) > 1 for each in table.configurations):
        told.append("Of several runs (n): mean \u00b1 standard deviation of a sample.")
    if len(table.configurations) > 1:
        told.append("Bold and underlined: the best of a column.")
    if table.data_folders:
        told.append(
            f"The data lay in different folders ({escape(', '.join(table.data_folders))}); they "
            "count as the same for their number of images, their categories and the names of "
            "annotation files given."
        )
    return f'<p class="legend">{" ".join(told)}</p>' if told else ""


def _curves(table: Table) -> str:
    figures = []
    for kind, value in (("bbox", "box"), ("segm", "mask")):
        lines = []
        for each, series in zip(table.configurations, series_of(table), strict=True):
            curves = [
                [
                    (moment.epoch, 100 * getattr(moment, value))
                    for moment in run.history
                    if getattr(moment, value) is not None
                ]
                for run in each.runs
            ]
            curves = [curve for curve in curves if curve]
            if curves:
                lines.append((series, curves))
        if any(len(curve) > 1 for _, curves in lines for curve in curves):
            name = KIND_NAMES[kind].capitalize()
            figures.append(
                line_chart(
                    lines,
                    identity=f"curve-{kind}-{table.number}",
                    title=f"{name} AP over epochs",
                    x_label="epochs",
                    y_label=f"{name} AP",
                )
            )
    return _figures("AP over epochs", figures)


def _tide(table: Table) -> str:
    figures, panels = [], []
    series = series_of(table)
    for kind in table.kinds:
        costs = {
            error: [each.tide(kind, error) for each in table.configurations]
            for error in TIDE_ERRORS
        }
        if not any(cost for its in costs.values() for cost in its):
            continue
        groups = [
            (ERROR_NAMES[error], [cost and 100 * cost.mean for cost in its])
            for error, its in costs.items()
        ]
        panels.append(KIND_PLURALS[kind].capitalize())
        figures.append(
            bar_chart(
                groups,
                series,
                identity=f"errors-{kind}-{table.number}",
                title=f"{panels[-1]}: AP lost to each type of error",
            )
        )
    note = (
        "TIDE's error types: how many points of AP at IoU .5 mending that type alone would gain. "
        "The last two are the gains without any false positive and without any object unfound."
    )
    keys = "".join(f"<li>{swatch(s)} <b>{s.key}</b> {escape(s.label)}</li>" for s in series)
    legend = f'<ul class="keys">{keys}</ul>' if len(series) > 1 else ""
    return _figures("What errors cost", figures, note, panels, legend)


def _figures(
    heading: str,
    figures: Sequence[str],
    note: str = "",
    panels: Sequence[str] = (),
    legend: str = "",
) -> str:
    if not figures:
        return ""
    captions = [f"<figcaption>{escape(panel)}</figcaption>" for panel in panels]
    captions = captions or [""] * len(figures)
    drawn = "".join(
        f"<figure>{caption}{figure}</figure>"
        for caption, figure in zip(captions, figures, strict=True)
    )
    told = f'<p class="note">{escape(note)}</p>' if note else ""
    return f'<h3>{escape(heading)}</h3>{told}{legend}<div class="figures">{drawn}</div>'


def _categories(table: Table) -> str:
    number_of = {series.key: series for series in series_of(table)}
    figures = []
    for base, other in comparisons(table):
        gains = category_gains(base, other, table.categories)
        if gains:
            title = f"{_called(other, number_of)} against {_called(base, number_of)}"
            chart = difference_chart(
                gains,
                number_of[other.key],
                identity=f"categories-{other.key}",
                title=f"Box AP by category, {title}: largest gains and losses in points",
            )
            figures.append(f"<figure><figcaption>{escape(title)}</figcaption>{chart}</figure>")
    grids = "".join(
        f"<div>{_grid(category_grid(table, kind), f'categories-{kind}-{table.number}')}</div>"
        for kind in table.kinds
    )
    grids = f'<div class="figures">{grids}</div>'
    if not figures:
        return _details("AP by category", grids)
    note = (
        '<p class="note">The largest gains and losses of box AP in points, each against the first '
        "of its model in the table; means over seeds.</p>"
    )
    drawn = f'{note}<div class="figures">{"".join(figures)}</div>'
    return _details("Differences by category", drawn + grids)


def _called(each: Configuration, series: dict[str, Series]) -> str:
    return f"{each.key} {series[each.key].label}"


def _pictures(table: Table) -> str:
    figures = []
    for each in table.configurations:
        path = each.first.folder / "detections.png"
        content = small_picture(path)
        if content is None:
            continue
        data = base64.b64encode(content).decode("ascii")
        name = f"{each.key}  {initialisation_name(each)}, {each.model}"
        told = f"Detections of {name} on the first validation images"
        figures.append(
            f"<figure><figcaption>{escape(name)}</figcaption>"
            f'<img alt="{escape(told)}" src="data:image/webp;base64,{data}"></figure>'
        )
    if not figures:
        return ""
    note = (
        '<p class="note">On the first images of the validation set, chosen by nothing else; what '
        "scores at least 0.5 is drawn.</p>"
    )
    return f'<h3>Examples</h3>{note}<div class="pictures">{"".join(figures)}</div>'


def small_picture(path: Path) -> bytes | None:
    """A picture as WebP of at most LARGEST_PICTURE bytes; None where there is no readable one."""
    # Pillow lets out many kinds of exception for broken files, and sides too long for WebP.
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.width * image.height > LARGEST_IMAGE:
                return None
            picture = image.convert("RGB")
        width = min(PICTURE_WIDTH, picture.width)
        while True:
            height = max(1, round(picture.height * width / picture.width))
            resized = picture.resize((width, height), Image.Resampling.LANCZOS)
            for quality in (80, 60, 40):
                stream = io.BytesIO()
                resized.save(stream, "WEBP", quality=quality, method=4)
                if stream.tell() <= LARGEST_PICTURE:
                    return stream.getvalue()
            width = round(width * 0.75)
    except Exception:
        return None


def _recipe(table: Table) -> str:
    rows = "".join(
        f'<tr><th scope="row"><code>{escape(word)}</code></th><td>{escape(value_text(value))}'
        "</td></tr>"
        for word, value in sorted(table.recipe.items())
    )
    return f'<div class="scroll"><table class="words"><tbody>{rows}</tbody></table></div>'


def _provenance(tables: Sequence[Table], names: dict[Path, str]) -> str:
    entries = "\n".join(
        f'<article id="run-{each.key}"><h3>{swatch(series)} {each.key} '
        f"{escape(initialisation_name(each))}, {escape(each.model)}</h3>"
        + "".join(_run(run, names[run.folder.resolve()]) for run in each.runs)
        + "</article>"
        for table in tables
        for each, series in zip(table.configurations, series_of(table), strict=True)
    )
    return (
        '<section aria-labelledby="runs-title"><h2 id="runs-title">Where the numbers come from</h2>'
        '<p class="subtitle">The digest of a config is the SHA-256 of its canonical JSON, that of '
        "weights the SHA-256 over the evaluated parameters and statistics, or over the submitted "
        f'file.</p><div class="runs">{entries}</div></section>'
    )


def _run(run: Run, name: str) -> str:
    digest = run.checkpoint_sha256 or "digest not told"
    entries = {"Run": name}
    if run.detections_file is not None:
        entries |= {"Evaluated": run.detections_file, "File": digest, "Config": run.config_sha256}
    else:
        entries["Run"] = f"{name}, seed {run.config['seed']}"
        entries["Trained"] = _training(run)
        entries |= {"Config": run.config_sha256, "Weights": digest}
    if run.init:
        file, origin = run.init.get("file", "a file"), run.init.get("sha256", "digest not told")
        entries["Started from"] = f"{file}, {origin}"
    entries["Device"] = run.device or "not told"
    versions = ", ".join(f"{package} {version}" for package, version in run.versions.items())
    entries["Versions"] = versions or "not told"
    digests = ("Config", "Weights", "File", "Started from")
    listed = "".join(
        f"<dt>{escape(term)}</dt>"
        f"<dd{' class=digest' if term in digests else ''}>{escape(text)}</dd>"
        for term, text in entries.items()
    )
    return f"<dl>{listed}</dl>"


def _training(run: Run) -> str:
    """How long, and with what the protocol tunes."""
    config = run.config
    trained = "evaluated as given" if run.epochs is None else f"{config['epochs']:g} epochs"
    tuned = [
        f"step {run.step}; lr {config['optim']['lr']:g}",
        f"weight decay {config['optim']['weight_decay']:g}",
        f"drop path {config['model']['vit']['drop_path']:g}",
    ]
    if config["optim"]["layer_decay"] != 1:
        tuned.append(f"layer decay {config['optim']['layer_decay']:g}")
    return ", ".join((trained, *tuned))


def _left_out(skipped: Sequence[Skipped]) -> str:
    if not skipped:
        return ""
    entries = "".join(
        f"<li><code>{escape(each.folder.name)}</code> {escape(each.reason_without_path)}</li>"
        for each in skipped
    )
    return (
        '<section aria-labelledby="left-title"><h2 id="left-title">Left out</h2>'
        f"<ul>{entries}</ul></section>"
    )


def _details(summary: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def _grid(grid: Grid, identity: str, name: str = "") -> str:
    """A table in a container of its own that scrolls sideways where the page is narrow."""
    caption = f'<p class="caption">{escape(grid.caption)}</p>' if grid.caption else ""
    body = "".join(
        "<tr>"
        + "".join(
            _cell(cell, head, identity, is_first=i == 0)
            for i, (cell, head) in enumerate(zip(row, grid.heads, strict=True))
        )
        + "</tr>"
        for row in grid.rows
    )
    notes = "".join(
        f'<li id="{identity}-note-{i}">{_note(note)}</li>' for i, note in enumerate(grid.notes, 1)
    )
    listed = f'<ol class="notes">{notes}</ol>' if notes else ""
    label = escape(name or grid.caption)
    return (
        f'{caption}<div class="scroll" role="region" tabindex="0" aria-label="{label}">'
        f'<table aria-label="{label}">'
        f"<thead>{_heads(grid.heads)}</thead><tbody>{body}</tbody></table></div>{listed}"
    )


def _heads(heads: Sequence[Head]) -> str:
    def column(head: Head) -> str:
        title = f' title="{escape(head.title)}"' if head.title else ""
        side = ' class="text"' if head.is_text else ""
        return f'<th scope="col"{side}{title}>{escape(head.text)}</th>'

    names = f"<tr>{''.join(map(column, heads))}</tr>"
    if not any(head.group for head in heads):
        return names
    groups = "".join(
        f'<th scope="colgroup" colspan="{len(its)}"{" class=group" if group else ""}>'
        f"{escape(group)}</th>"
        for group, its in ((g, list(members)) for g, members in groupby(heads, lambda h: h.group))
    )
    return f"<tr>{groups}</tr>{names}"


def _cell(cell: Cell, head: Head, identity: str, *, is_first: bool) -> str:
    text = escape(cell.text).replace("\n", "<br>")
    if cell.is_code:
        text = f"<code>{text}</code>"
    if cell.is_best:
        text = f'<strong class="best">{text}</strong><span class="unseen"> (best)</span>'
    if cell.mark:
        text += f'<span class="unsure">{escape(cell.mark)}</span>'
    if cell.note:
        text += f'<sup><a href="#{identity}-note-{cell.note}">{cell.note}</a></sup>'
    if cell.key:
        mark = swatch(Series(cell.key)) if is_first else ""
        text = f'<a class="key" href="#run-{escape(cell.key)}">{mark}{text}</a>'
    title = f' title="{escape(cell.title)}"' if cell.title else ""
    side = ' class="text"' if head.is_text else ""
    if is_first:
        return f'<th scope="row" class="text"{title}>{text}</th>'
    return f"<td{side}{title}>{text}</td>"


def _note(note: Note) -> str:
    if note.link is None:
        return escape(note.text)
    title, address = note.link
    return f'{escape(note.text)} <cite><a href="{escape(address)}">{escape(title)}</a></cite>.'
