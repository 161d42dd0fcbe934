"""The page and its tables are sound, and hold texts from outside as text."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest
from PIL import Image

from jaxdet.benchmark.reference import sources
from jaxdet.benchmark.report import write_report
from jaxdet.benchmark.reporting.result_file import read_run
from jaxdet.config.values import config_digest
from tests.benchmark.reporting.inspected import KEYS, inspect_run
from tests.benchmark.reporting.made_up import writer
from tests.benchmark.reporting.page import SCRIPT, Page

HOSTILE = '<script>alert("1")</script>\'&amp; | `x` [y](http://evil.example) \n \u202e'


def hostile(result):
    """Puts markup wherever a text comes from outside."""
    for kind in result["metrics"]:
        if kind != "tide":
            names = result["metrics"][kind]["per_category"]
            names[HOSTILE] = names.pop("star")
            result["metrics"][kind][HOSTILE] = 0.5
    result["device"] = HOSTILE
    result["versions"][HOSTILE] = HOSTILE
    result["init"] = {"file": HOSTILE, "sha256": HOSTILE}
    result["checkpoint_sha256"] = HOSTILE
    result["evaluated_on"] = {**result["evaluated_on"], "root": HOSTILE}
    result["config"]["data"]["root"] = HOSTILE
    result["config"]["optim"][HOSTILE.replace(".", "")] = HOSTILE
    result["config_sha256"] = config_digest(result["config"])


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The page and the tables of many kinds of runs, by name."""
    tmp_path = tmp_path_factory.mktemp("pages")
    write = writer(tmp_path / "runs")
    sheet = Image.effect_noise((640, 320), 90).convert("RGB")
    coco = [
        write(f"coco/{name}", name, 0.5, seed=i)
        for i, name in enumerate(("vitb_random", "vitb_mae", "vitl_mae", "vitdet_b_mae"))
    ]
    shapes = [
        write(f"shapes/{i}", ap=0.4 + i / 100, seed=i, optim__lr=0.001 + i / 1000)
        for i in range(10)
    ]
    sheet.save(shapes[0] / "detections.png")
    few = write("few", "imted_shapes_fewshot", 0.3, masks=False)
    attack = write('attack "<b>&amp;', edit=hostile)
    inspected = [
        inspect_run(write(f"{i}", masks=False, seed=i, initialisation=start, **KEYS), 0.3, i)
        for i, start in enumerate(("random", "mae"))
    ]
    kinds = {
        "coco": coco,
        "shapes": shapes,
        "one": [few],
        "hostile": [attack, shapes[1]],
        "inspected": inspected,
    }
    made = {}
    for kind, paths in kinds.items():
        html, markdown, _ = write_report(paths, tmp_path / "out" / kind)
        made[kind] = html.read_text("utf-8"), markdown.read_text("utf-8")
        again, _, _ = write_report(paths, tmp_path / "again" / kind)
        assert again.read_text("utf-8") == made[kind][0]
    return made


def test_pages_are_sound_and_need_nothing_from_outside(pages):
    known = {source.address for source in sources().values()}
    for kind, (html, _) in pages.items():
        page = Page(html)
        tags = {tag for tag, _ in page.elements}
        assert not tags & {"link", "iframe", "object", "form"}
        # One script, the page's own, and by its digest a browser runs no other.
        assert [each for tag, each in page.elements if tag == "script"] == [{}]
        assert f"<script>{SCRIPT}</script>" in html
        digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
        assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src " in html
        assert f"script-src 'sha256-{digest}'" in html
        identities = page.attributes("id")
        assert len(set(identities)) == len(identities)
        pictures = [each["href"] for tag, each in page.elements if tag == "image"]
        assert all(each.startswith(("#", "data:image/jpeg;base64,")) for each in pictures)
        assert bool(pictures) == (kind == "inspected")
        for source in page.attributes("src"):
            assert source.startswith("data:image/webp;base64,")
        links = [each["href"] for tag, each in page.elements if "href" in each and tag != "image"]
        for link in links:
            assert link in known or link.removeprefix("#") in identities
        assert not any(name.startswith("on") for _, each in page.elements for name in each)
        assert "url(" not in html
        assert "@import" not in html
        for tag, each in page.elements:
            if tag == "svg" and "aria-hidden" not in each:
                assert each["role"] == "img"
                named_by = each.get("aria-labelledby", "").split()
                assert each.get("aria-label") or named_by
                assert all(name in identities for name in named_by)
            if tag == "img":
                assert each["alt"]


def test_a_page_holds_digests_charts_and_versions(pages, write):
    html, _ = pages["coco"]
    page = Page(html)
    run = read_run(write("again", "vitb_mae", 0.5, seed=1))
    text = "".join(page.texts)
    assert run.config_sha256 in text
    assert run.checkpoint_sha256 in text
    assert run.config_sha256[:7] in text
    assert "jax 0.10.2" in text
    titles = [title for title in page.texts if title.endswith("AP over epochs")]
    assert {"Box AP over epochs", "Mask AP over epochs"} <= set(titles)
    assert any("AP lost to each type of error" in title for title in page.texts)
    assert len([tag for tag, _ in page.elements if tag == "img"]) == 0
    assert len([tag for tag, _ in Page(pages["shapes"][0]).elements if tag == "img"]) == 1


def test_text_from_outside_stays_text(pages):
    html, markdown = pages["hostile"]
    assert "<script" not in html.replace(f"<script>{SCRIPT}</script>", "")
    page = Page(html)
    assert "Left out" not in page.texts
    assert 'attack "<b>&amp;' in "".join(page.texts)
    assert HOSTILE in page.texts  # a category's cell holds it whole
    # In Markdown nothing of it is markup or a link either.
    unescaped = re.sub(r"\\.", "", markdown)
    assert "alert(" in unescaped  # it is there, as text
    assert "<script" not in unescaped
    assert "http://evil" not in unescaped
    assert "](http" not in unescaped.replace("](https://", "")


def test_markdown_tables_parse(pages):
    for _, markdown in pages.values():
        blocks = re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE)
        assert len(blocks) >= 3
        for block in blocks:
            rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()]
            assert len({len(row) for row in rows}) == 1
            assert all(re.fullmatch(r" ---:? ", rule) for rule in rows[1])
            assert len(rows) >= 3


def test_markdown_has_the_published_numbers(pages):
    _, markdown = pages["coco"]
    line = next(line for line in markdown.splitlines() if "| MAE | ViT-B | 100 |" in line)
    assert "| 50.3 <sup>" in line
    assert "| 43.6 (memory) <sup>" in markdown
