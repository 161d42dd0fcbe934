"""The commands that the docs give for ViTDet's tables reproduce what is published there."""

from __future__ import annotations

import re

import pytest

from jaxdet.benchmark.reference import published_for
from jaxdet.config.files import load_config
from jaxdet.config.mask_rcnn import check
from jaxdet.config.values import override
from tests.conftest import REPOSITORY

PAGE = (
    (REPOSITORY / "docs/recipes.md").read_text().split("## ViTDet's numbers")[1].split("\n## ")[0]
)
COMMANDS = [line for line in PAGE.splitlines() if line.startswith("jaxdet ")]
BOX_APS = {
    "Table 4": (48.1, 47.6, 47.8, 51.2),
    "Table 6": (57.3,),
    "Table 7": (51.2, 53.4),
    "Table 10": (37.2, 38.7),
}


@pytest.mark.parametrize(
    ("command", "table", "box_ap"),
    [
        (command, *row)
        for command, row in zip(
            COMMANDS, [(t, ap) for t, aps in BOX_APS.items() for ap in aps], strict=True
        )
    ],
)
def test_a_command_sets_out_to_reproduce_its_row(command, table, box_ap):
    assert re.search(rf"# {table}\b.*\b{box_ap}\b", PAGE)
    config = load_config(re.search(r"--config=(\w+)", command)[1])
    for key, value in re.findall(r"--config\.(\S+?)=(\S+)", command):
        override(config, key, value)
    check(config)
    published = published_for(config)
    assert published.box_ap == box_ap
    assert table.removeprefix("Table ") in re.findall(r"\d+", published.where)
