"""Uploads a run's detector to the Hugging Face hub, where --init and --init-from find it.

    jaxdet push runs/vitb_mae owner/vitb-mae --license=apache-2.0
    jaxdet push runs/vitb_mae owner/vitb-mae --out=FOLDER

The second writes what would be uploaded into a folder and uploads nothing. It is model.safetensors
with the newest checkpoint's weights; config.json with the config, the classes and the SHA-256 of
every array; result.json; and README.md, a model card made of it. Folders of this machine do not
appear in them. The run must have ended or been evaluated (`jaxdet eval`). Needs the extra hub.

    jaxdet predict --init=hf://owner/vitb-mae --out=seen street.jpg
    jaxdet train --init-from=hf://owner/vitb-mae --config=coco_small --data=/data/mine
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from jaxdet.errors import UserError
from jaxdet.files import atomic_write, make_folder, read_file, write_json
from jaxdet.flags import Parser, local_path, run_main
from jaxdet.weights.hub import PART, upload

CARD, RESULT = "README.md", "result.json"

REPOSITORY = re.compile(f"{PART}/{PART}")
HUB_ID = re.compile(f"{PART}(?:/{PART})?")
"""What the hub calls licenses, and data sets."""

PATH = re.compile(r"(?<![^\s'\"(=,:])(?:~[\w.-]*)?/[\w.+-][^\s'\"(),;:]*")
"""A path of this machine within a sentence: no address of the hub, no `owner/name`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_main(partial(_run, arguments))


def _run(arguments: Sequence[str] | None) -> None:
    parser = Parser("jaxdet push", __doc__)
    add = parser.add_argument
    add("run", type=local_path, metavar="RUN", help="workdir of the run")
    add("repository", type=_repository, metavar="REPO", help="owner/name")
    add("--license", type=_hub_id, help="by the hub's name for it, such as mit; default none said")
    add("--dataset", type=_hub_id, metavar="ID", help="the hub's id of the data that it learned")
    add("--out", type=local_path, metavar="FOLDER", help="write the files here, upload nothing")
    add("--private", action="store_true", help="make a repository that others cannot see")
    add("--update", action="store_true", help="replace the files of a repository that exists")
    options = parser.parse_args(arguments)
    if options.out is not None:
        write_folder(options.out, options)
        print(f"{options.out}: {CARD} and the files that it describes; nothing was uploaded")
        return
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder), options)
        page = upload(
            Path(folder), options.repository, private=options.private, update=options.update
        )
    print(f"{page}\n--init=hf://{options.repository} takes it")


def write_folder(folder: Path, options: argparse.Namespace) -> None:
    """Writes what is uploaded.

    Args:
        options: run, repository, license and dataset of the command line.

    Raises:
        UserError: the run has no result of its newest checkpoint, or holds no detector; its weights
            are not finite; the folder holds files already.
    """
    from checkpoints_convert.model_card import Published, model_card
    from checkpoints_convert.runs import read_run
    from jaxdet.training.checkpoint import open_latest
    from jaxdet.weights.pushed import write_pushed

    result = _result(options.run)
    with open_latest(options.run / "checkpoints") as (checkpoints, step):
        meta = checkpoints.meta(step)
    source = read_run(options.run)
    if source.sha256 != result["checkpoint_sha256"]:
        raise UserError(
            f"{options.run / RESULT} is not of the newest checkpoint, step {step}; evaluate it: "
            "jaxdet eval with the run's --config and --workdir"
        )
    published = Published(options.repository, options.license, options.dataset)
    card = model_card(published, result, source.report)
    _validate_empty(folder)
    make_folder(folder, "--out")
    arrays = {name: tensor.read() for name, tensor in source.state.items()}
    facts = {name: meta[name] for name in ("config", "categories", "category_ids")}
    write_pushed(folder, arrays, without_folders({"report": source.report, **facts}))
    write_json(folder / RESULT, without_folders(result), indent=2)
    with atomic_write(folder / CARD) as partial_path:
        partial_path.write_text(card, encoding="utf-8")


def _result(run: Path) -> dict[str, Any]:
    """The content of a run's result.json, of a checkpoint."""
    from checkpoints_convert.model_card import validate_result

    path = run / RESULT
    if not run.is_dir():
        raise UserError(f"{run} is not a folder; give the --workdir of a run")
    if not path.is_file():
        raise UserError(
            f"{path} does not exist: the run has not ended; let it, or evaluate it as it is: "
            "jaxdet eval with its --config and --workdir"
        )
    try:
        result = json.loads(read_file(path))
        validate_result(result)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} must be what jaxdet wrote of a checkpoint ({error}); evaluate the run again"
        ) from error
    return result


def _validate_empty(folder: Path) -> None:
    """Raises UserError for a folder of other files than those of this command."""
    from jaxdet.config.starts import PUSHED

    ours = {*PUSHED, CARD, RESULT}
    try:
        others = sorted({each.name for each in folder.iterdir()} - ours) if folder.is_dir() else []
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error}); give another --out") from error
    if others:
        raise UserError(f"{folder} holds other files ({others[0]}); give an empty --out")


def without_folders(tree: Any) -> Any:
    """The same JSON values, of each absolute path, or one from a home, its last name alone, also
    within sentences: it is nobody's business."""
    if isinstance(tree, dict):
        return {name: without_folders(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [without_folders(value) for value in tree]
    if not isinstance(tree, str):
        return tree
    if os.path.isabs(tree) or tree.startswith("~"):
        return PurePath(tree).name.removeprefix("~")
    return PATH.sub(lambda found: PurePath(found[0]).name, tree)


def _repository(text: str) -> str:
    if not REPOSITORY.fullmatch(text.removeprefix("hf://")):
        raise argparse.ArgumentTypeError(f"{text:.100} must be owner/name")
    return text.removeprefix("hf://")


def _hub_id(text: str) -> str:
    if not HUB_ID.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text[:100]!r} can be no name of the hub's")
    return text


if __name__ == "__main__":
    sys.exit(main())
