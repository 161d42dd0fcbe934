"""Which results are read, and why others are not."""

from __future__ import annotations

import json
import os

import pytest

from jaxdet.benchmark.report import main, write_report
from jaxdet.benchmark.reporting.gather import gather
from jaxdet.benchmark.reporting.result_file import read_run
from jaxdet.benchmark.reporting.tables import ap_table
from jaxdet.config.values import config_digest
from jaxdet.errors import UserError
from tests.benchmark.reporting.made_up import cells, sections_of


def test_a_run_without_metrics_masks_or_some_numbers_is_reported(write, tmp_path):
    def empty(result):
        result["metrics"]["bbox"].update(AP=None, APl=None)
        result["metrics"]["bbox"]["per_category"]["star"] = None
        result["metrics"]["tide"]["bbox"]["main"]["Cls"] = None

    path = write("a", edit=empty, masks=False)
    (path / "metrics.jsonl").unlink()
    other = write("b", masks=False, optim__lr=0.1, seed=1)
    (section,) = sections_of(tmp_path)
    assert section.kinds == ("bbox",)
    assert "\u2013" in [cells(ap_table(section), i)["Box AP ours"] for i in (0, 1)]
    html, _, _ = write_report([path, other], tmp_path / "out")
    assert "Mask AP" not in html.read_text("utf-8")


def test_training_rate_leaves_out_the_evaluations(write):
    run = read_run(write("a"))
    assert run.train_rate == pytest.approx(20 * 8 / 2.0)
    assert run.eval_rate == 33.3
    assert run.memory_gb == 61.5
    assert [point.epoch for point in run.history] == [float(i) for i in range(1, 9)]
    assert run.history[-1].box == pytest.approx(0.5)


def broken_json(folder):
    (folder / "result.json").write_text('{"step": 3')


def not_a_number(folder):
    (folder / "result.json").write_text('{"step": NaN}')


def no_result(folder):
    (folder / "result.json").unlink()


def edited(change):
    def edit(folder):
        result = json.loads((folder / "result.json").read_text("utf-8"))
        change(result)
        (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")

    return edit


def config_edited(change):
    def edit(result):
        change(result["config"])
        result["config_sha256"] = config_digest(result["config"])

    return edited(edit)


DAMAGES = {
    "unfinished: no result.json (its metrics end at step 2000)": no_result,
    "unfinished: evaluated after 4 of 8 epochs": edited(lambda r: r.update(epochs=4.0, step=1000)),
    "result.json cannot be read": broken_json,
    "NaN is no JSON number": not_a_number,
    "result.json has no metrics": edited(lambda r: r.pop("metrics")),
    "result.json has no config": edited(lambda r: r.update(config=[])),
    "metrics.bbox has no AP": edited(lambda r: r["metrics"]["bbox"].pop("AP")),
    "bbox.AP is 50.3, not in 0..1": edited(lambda r: r["metrics"]["bbox"].update(AP=50.3)),
    "segm.per_category.star is '<b>'": edited(
        lambda r: r["metrics"]["segm"]["per_category"].update(star="<b>")
    ),
    "config_sha256": edited(lambda r: r["config"].update(seed=5)),
    "not a config of this version": config_edited(lambda c: c["model"]["vit"].update(width="wide")),
    "config.model.vit.depth is above 1000": config_edited(
        lambda c: c["model"]["vit"].update(depth=10**9)
    ),
    "config.model.vit.depth is not a whole number": config_edited(
        lambda c: c["model"]["vit"].update(depth=4.5)
    ),
    "config.batch_size is above": config_edited(lambda c: c.update(batch_size=10**400)),
    "result.json has no val": edited(lambda r: r["images"].pop("val")),
    "result.json has no checkpoint_sha256": edited(lambda r: r.pop("checkpoint_sha256")),
    "its metrics are of neither boxes nor masks": edited(lambda r: r.update(metrics={})),
    "config.few_shot.novel is a section": config_edited(lambda c: c["few_shot"].update(novel={})),
    "config.model.heads.mask is a section": config_edited(
        lambda c: c["model"]["heads"].update(mask={})
    ),
    "bbox.AP is 1000": edited(lambda r: r["metrics"]["bbox"].update(AP=10**400)),
    "result.json has no step": edited(lambda r: r.update(step=10**400)),
    "config.model.vit is not a section": config_edited(lambda c: c["model"].update(vit=3)),
}


@pytest.mark.parametrize("reason", DAMAGES)
def test_an_unfinished_or_damaged_run_is_named_and_left_out(write, tmp_path, capsys, reason):
    damaged, sound = write("damaged"), write("sound", optim__lr=0.1, seed=1)
    DAMAGES[reason](damaged)
    out = tmp_path / "out"
    assert main([str(damaged), str(sound), f"--out={out}"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert str(damaged) in line
    assert reason in line
    assert "Left out" in (out / "report.html").read_text("utf-8")
    assert str(tmp_path) not in (out / "report.html").read_text("utf-8")
    with pytest.raises(UserError, match="no finished run"):
        gather([damaged])


def test_numbers_beyond_measure_are_unknown(write, tmp_path):
    def huge(result):
        result.update(parameters=10**400, evaluation={"images_per_second": 10**400})

    path = write("a", edit=huge)
    with (path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 10**400, "time": 10**400, "val/bbox/AP": 10**400}) + "\n")
    run = read_run(path)
    assert (run.parameters, run.eval_rate) == (None, None)
    assert run.history[-1].epoch == 8.0
    write_report([path], tmp_path / "out")


def test_text_that_is_no_unicode_is_written_all_the_same(write, tmp_path):
    def lone(result):
        names = result["metrics"]["bbox"]["per_category"]
        names["\ud800"] = names.pop("star")
        result["device"] = "\udfff"
        result["evaluated_on"] = {**result["evaluated_on"], "root": "/\ud800"}

    html, markdown, _ = write_report([write("a", edit=lone)], tmp_path / "out")
    assert "?" in markdown.read_text("utf-8")
    assert "<dd>?</dd>" in html.read_text("utf-8")
    write_report([write("b", "vitb_mae", 0.5, data__root="/\ud800")], tmp_path / "out")


def test_detections_of_masks_alone_are_reported(write, tmp_path):
    def masks_alone(result):
        result.update(evaluated="file of detections", checkpoint="theirs.json", epochs=None, step=0)
        del result["metrics"]["bbox"], result["metrics"]["tide"]["bbox"]

    path = write("a", edit=masks_alone)
    (section,) = sections_of(path)
    assert section.kinds == ("segm",)
    assert len(section.categories) == 4
    write_report([path], tmp_path / "out")


def test_a_run_of_masks_alone_is_reported(write, tmp_path):
    def of_masks(result):
        del result["metrics"]["bbox"]
        result["metrics"]["tide"].pop("bbox")

    paths = [
        write("a", edit=of_masks),
        write("b", edit=of_masks, optim__lr=0.1),
        write("c", seed=1),
    ]
    html, table, skipped = write_report(paths, tmp_path / "out")
    assert skipped == []
    assert "Mask AP" in html.read_text("utf-8")
    assert "Mask AP" in table.read_text("utf-8")


@pytest.mark.parametrize("name", ["result.json", "metrics.jsonl", "detections.png", "config.json"])
def test_what_is_no_file_is_never_read(write, tmp_path, name):
    """A pipe without a writer would be waited for, /dev/zero has no end, links lead in a circle."""
    write("sound")
    for number, kind in enumerate(("pipe", "zero", "loop", "folder"), 1):
        path = write(kind, seed=number) / name
        path.unlink(missing_ok=True)
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        else:
            path.symlink_to("/dev/zero" if kind == "zero" else path.name)
        (path.parent / "self").symlink_to(".")
    if name == "detections.png":
        write_report([tmp_path / "runs"], tmp_path / "out")
    _, skipped = gather([tmp_path / "runs"])
    assert len(skipped) == (4 if name == "result.json" else 0)


def test_more_categories_than_a_page_can_hold(write, tmp_path):
    def many(result):
        for kind in ("bbox", "segm"):
            result["metrics"][kind]["per_category"] = {f"name {i}": 0.5 for i in range(2100)}

    paths = [write("a", edit=many), write("b", edit=many, seed=1)]
    html, _, skipped = write_report(paths, tmp_path / "out")
    assert skipped == []
    assert "Box AP by category, the first 2000 of 2100" in html.read_text("utf-8")
