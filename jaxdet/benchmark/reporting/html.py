"""The report as one HTML page: nothing to load, every text escaped, no script but one that copies.

`templates/report.html` is the page; here is what it is filled with.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from jaxdet import __version__
from jaxdet.benchmark.reporting.charts import swatch
from jaxdet.benchmark.reporting.confusion import matrices
from jaxdet.benchmark.reporting.cost_tables import cost_tables
from jaxdet.benchmark.reporting.csv_text import csv_text
from jaxdet.benchmark.reporting.differences import (
    ONE_RUN,
    difference_notes,
    difference_table,
    has_single,
)
from jaxdet.benchmark.reporting.examples import examples
from jaxdet.benchmark.reporting.figures import areas, curves, errors, gains, sizes
from jaxdet.benchmark.reporting.groups import RunGroup, Section
from jaxdet.benchmark.reporting.inspection_figures import histogram, precision_recall
from jaxdet.benchmark.reporting.pictures import pictures
from jaxdet.benchmark.reporting.run import Run, SkippedRun
from jaxdet.benchmark.reporting.tables import (
    Table,
    ap_table,
    category_table,
    coco_table,
    frequency_table,
    tide_table,
)
from jaxdet.benchmark.reporting.text import (
    CERTAINTY_NAMES,
    UNKNOWN,
    UNSURE,
    deviations_rows,
    initialisation_name,
    recipe_title,
    series_of,
    validation,
    value_text,
)
from jaxdet.benchmark.reporting.training_figures import losses

SCRIPT = "copy.js"
"""The page's own; a browser runs no other, since the page names its digest."""

DIGESTS = ("Config", "Weights", "File", "Started from")


def page(sections: Sequence[Section], skipped: Sequence[SkippedRun]) -> str:
    """The whole page."""
    environment = Environment(
        loader=PackageLoader("jaxdet.benchmark.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(swatch=swatch, counted=counted, csv_text=csv_text)
    script = environment.loader.get_source(environment, SCRIPT)[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    names = run_names(run for section in sections for run in section.runs)
    groups = [group for section in sections for group in section.groups]
    runs = counted(len(names), "run")
    return environment.get_template("report.html").render(
        version=__version__,
        script=Markup(script),
        script_digest=digest,
        counts=f"{runs}, {counted(len(groups), 'configuration')}, "
        f"{counted(len(sections), 'recipe')}",
        sections=[_section(section, len(sections)) for section in sections],
        groups=[_group(group, names) for group in groups],
        skipped=skipped,
    )


def run_names(runs: Iterable[Run]) -> dict[Path, str]:
    """Each run's folder without what all of them share, so that no path of the machine is shown."""
    folders = [run.folder.resolve() for run in runs]
    shared = folders[0].parent if len(folders) == 1 else Path(os.path.commonpath(folders))
    return {folder: folder.relative_to(shared).as_posix() for folder in folders}


def counted(count: int, noun: str) -> str:
    """Such as "1 run", "2 runs"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _section(section: Section, of: int) -> dict[str, Any]:
    title, ap = recipe_title(section), ap_table(section)
    subtitle = f"Validated on {validation(section)}."
    kinds, series = section.kinds, series_of(section)
    return {
        "number": section.number,
        "title": title,
        "heading": f"Recipe {section.number}: {title}" if of > 1 else "Results",
        "subtitle": subtitle if of > 1 else f"{title}. {subtitle}",
        "letters": ", ".join(each.letter for each in section.groups),
        "deviations": deviations_rows(section.deviations),
        "ap": ap,
        "has_published": any(each.published for each in section.groups),
        "has_seeds": any(len(each.runs) > 1 for each in section.groups),
        "one_run": ONE_RUN if has_single(section) else "",
        "differences": difference_table(section),
        "difference_notes": difference_notes(section),
        "marks": _marks(ap),
        "data_folders": ", ".join(section.data_folders),
        "frequencies": frequency_table(section),
        "curves": curves(section),
        "losses": losses(section),
        "sizes": sizes(section),
        "precision": precision_recall(section),
        "areas": areas(section),
        "matrices": matrices(section),
        "histogram": histogram(section),
        "pictures": pictures(section),
        "uninspected": [each.letter for each in section.groups if not each.first.inspection],
        "errors": errors(section),
        "series": series if len(series) > 1 else [],
        "coco": {kind: coco_table(section, kind) for kind in kinds},
        "tide": {kind: tide_table(section, kind) for kind in kinds if section.has_tide},
        "gains": gains(section),
        "categories": {kind: category_table(section, kind) for kind in kinds},
        "costs": cost_tables(section),
        "examples": examples(section),
        "recipe": [(key, value_text(value)) for key, value in sorted(section.recipe.items())],
    }


def _marks(table: Table) -> list[tuple[str, str]]:
    """The signs of unsure numbers that the table holds, with their meaning."""
    used = {cell.mark for row in table.rows for cell in row}
    return sorted(
        (mark, CERTAINTY_NAMES[certainty]) for certainty, mark in UNSURE.items() if mark in used
    )


def _group(group: RunGroup, names: dict[Path, str]) -> dict[str, Any]:
    return {
        "letter": group.letter,
        "title": f"{initialisation_name(group)}, {group.model}",
        "runs": [_run(run, names[run.folder.resolve()]) for run in group.runs],
    }


def _run(run: Run, name: str) -> list[tuple[str, str, bool]]:
    """Where a run's numbers come from: terms, texts and whether these are digests."""
    if run.detections_file is not None:
        entries = {
            "Run": name,
            "Evaluated": run.detections_file,
            "File": run.checkpoint_sha256,
            "Config": run.config_sha256,
        }
    else:
        entries = {
            "Run": f"{name}, seed {run.config['seed']}",
            "Trained": _training(run),
            "Config": run.config_sha256,
            "Weights": run.checkpoint_sha256,
        }
    if run.init:
        entries["Started from"] = ", ".join(
            run.init.get(key, f"{key} {UNKNOWN}") for key in ("file", "sha256")
        )
    versions = ", ".join(f"{package} {version}" for package, version in run.versions.items())
    entries |= {"Device": run.device or UNKNOWN, "Versions": versions or UNKNOWN}
    return [(term, text, term in DIGESTS) for term, text in entries.items()]


def _training(run: Run) -> str:
    """How long, and with what the protocol tunes."""
    config, optim = run.config, run.config["optim"]
    trained = "evaluated as given" if run.epochs is None else f"{config['epochs']:g} epochs"
    tuned = [
        f"step {run.step}; lr {optim['lr']:g}",
        f"weight decay {optim['weight_decay']:g}",
        f"drop path {config['model']['vit']['drop_path']:g}",
    ]
    if optim["layer_decay"] != 1:
        tuned.append(f"layer decay {optim['layer_decay']:g}")
    return ", ".join((trained, *tuned))
