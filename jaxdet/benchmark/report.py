"""Gathers finished runs into one page to show: report.html, and its tables as report.md.

    jaxdet report runs/vitb_mae runs/vitb_random --out=report
    jaxdet report runs

RUNS are workdirs of `jaxdet train`, or folders that hold some. The page has tables, curves,
confusions, and the images on which runs differ or err most; it needs no other file and no network,
each of its numbers can be copied as CSV, and a browser prints it all. Runs of different recipes, or
whose data differ in the number of images, in the categories, or in the names or contents of the
annotation files, never stand in one table; runs that differ in the seed alone are one row. What is
unfinished or damaged is named and left out. Where there are several seeds, or with
--bootstrap=1000, it says how sure the differences are.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from jaxdet.benchmark.reporting.gather import gather
from jaxdet.benchmark.reporting.groups import sections
from jaxdet.benchmark.reporting.markdown import markdown
from jaxdet.benchmark.reporting.run import SkippedRun
from jaxdet.files import atomic_write, make_folder
from jaxdet.flags import Parser, count, local_path, run_main


def write_report(
    runs: Sequence[Path], out: Path, draws: int = 0
) -> tuple[Path, Path, list[SkippedRun]]:
    """Writes report.html and report.md of all runs that the paths are or hold.

    Args:
        draws: how often the validation images are drawn anew.

    Returns:
        The two files, and what was left out.

    Raises:
        UserError: there is no usable run, or `out` cannot be written.
    """
    from jaxdet.benchmark.reporting.html import page  # late, as jinja2 is

    found, skipped = gather(runs)
    ordered = sections(found)
    if draws:
        from jaxdet.benchmark.reporting.drawn import with_draws  # late: it takes jax along

        ordered = [with_draws(section, draws) for section in ordered]
    contents = {"report.html": page(ordered, skipped), "report.md": markdown(ordered, skipped)}
    make_folder(out, "--out")
    for name, content in contents.items():
        with atomic_write(out / name) as partial:
            partial.write_text(content, encoding="utf-8", errors="replace")
    return out / "report.html", out / "report.md", skipped


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status (2: an error of the user's)."""
    return run_main(lambda: _report(arguments))


def _report(arguments: list[str] | None) -> None:
    parser = Parser("jaxdet report", __doc__)
    parser.add_argument(
        "runs", type=local_path, nargs="+", metavar="RUNS", help="workdirs, or folders"
    )
    parser.add_argument(
        "--out", type=local_path, default=Path("report"), help="folder; default report"
    )
    parser.add_argument(
        "--bootstrap",
        type=count,
        default=0,
        metavar="N",
        help="draw the validation images anew N times, to say how sure differences are; needs the "
        "runs' detections.json and their annotations; 1000 is usual",
    )
    options = parser.parse_args(arguments)
    html, table, skipped = write_report(options.runs, options.out, options.bootstrap)
    for each in skipped:
        print(f"left out {each.folder}: {each.reason}", file=sys.stderr)
    print(f"page    {html}")
    print(f"tables  {table}")


if __name__ == "__main__":
    sys.exit(main())
