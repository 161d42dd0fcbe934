"""The report of finished runs: what is put beside what, and that the page is sound."""

from __future__ import annotations

import json
import random
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from jaxdet.benchmark.reference import sources
from jaxdet.benchmark.report import main, write_report
from jaxdet.benchmark.reporting.charts import (
    Series,
    clipped,
    difference_chart,
    signed,
    spread,
    text_width,
    ticks,
)
from jaxdet.benchmark.reporting.groups import tables
from jaxdet.benchmark.reporting.html import LARGEST_PICTURE, small_picture
from jaxdet.benchmark.reporting.runs import TIDE_ERRORS, Skipped, gather, read_run
from jaxdet.benchmark.reporting.tables import ap_grid, category_gains, comparisons, complexity_grid
from jaxdet.config.mask_rcnn import config_digest
from jaxdet.data.fewshot import VOC
from jaxdet.errors import UserError
from jaxdet.flags import load_config

CONFIGS = Path(__file__).resolve().parents[3] / "configs"

SHAPES = ("disc", "box", "triangle", "star")
COCO = (*VOC, *(f"category {i}" for i in range(len(VOC), 80)))
NUMBERS = ("AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def config_of(name: str, **words) -> dict:
    """A config file's config as JSON values; words are given with __ for dots."""
    config = load_config(CONFIGS / f"{name}.py")
    with config.unlocked():
        for word, value in words.items():
            *sections, last = word.split("__")
            section = config
            for each in sections:
                section = section[each]
            section[last] = value
    return json.loads(config.to_json())


def result_of(
    config: dict, box_ap: float, *, categories=None, masks: bool = True, seed: int = 0
) -> dict:
    """A result such as an evaluation writes, with made-up numbers around an AP."""
    draw = random.Random(seed)
    is_coco = config["data"]["name"] == "coco"
    names = categories or (COCO if is_coco else SHAPES)
    train, val = (117_266, 5000) if is_coco else (2000, 100)
    step = round(config["epochs"] * train / config["batch_size"])

    def scores(ap: float) -> dict:
        coco = {name: min(ap * draw.uniform(0.8, 1.4), 1.0) for name in NUMBERS}
        per_category = {name: min(max(ap + draw.gauss(0, 0.08), 0.01), 1.0) for name in names}
        return {"AP": ap, **coco, "per_category": per_category}

    def gains() -> dict:
        costs = {error: draw.uniform(0.002, 0.08) for error in TIDE_ERRORS}
        return {
            "AP": 1.4 * box_ap,
            "main": {error: costs[error] for error in TIDE_ERRORS[:6]},
            "special": {error: 2 * costs[error] for error in TIDE_ERRORS[6:]},
        }

    kinds = ("bbox", "segm") if masks else ("bbox",)
    return {
        "evaluated": "checkpoint",
        "step": step,
        "metrics": {
            "bbox": scores(box_ap),
            **({"segm": scores(0.89 * box_ap)} if masks else {}),
            "tide": {kind: gains() for kind in kinds},
        },
        "parameters": 115_680_000 if is_coco else 1_332_752,
        "checkpoint": f"/somewhere/runs/x/checkpoints/{step}",
        "versions": {"jaxdet": "0.1.0", "jax": "0.10.2", "flax": "0.12.8"},
        "device": "8 x NVIDIA H100 80GB HBM3" if is_coco else "1 x cpu",
        "config": config,
        "evaluated_on": config["data"],
        "epochs": config["epochs"],
        "images": {"train": train, "val": val},
        "config_sha256": config_digest(config),
        "checkpoint_sha256": f"{draw.getrandbits(256):064x}",
        "init": None
        if config["initialisation"] == "random"
        else {"file": "weights.pth", "sha256": config_digest({"x": config["initialisation"]})},
        "evaluation": {"seconds": {"detect": 2.0, "score": 1.0}, "images_per_second": 33.3},
    }


def metrics_of(result: dict, evaluations: int = 8, every: float = 2.0) -> str:
    """metrics.jsonl of a run that ends with the result: one line in `every` seconds."""
    lines, time = [], 1_700_000_000.0
    step, epochs = result["step"], result["epochs"]
    logged = 20
    for i in range(1, evaluations + 1):
        at = round(step * i / evaluations)
        for back in (3, 2, 1, 0):
            time += every
            lines.append(
                {
                    "step": at - back * logged,
                    "time": time,
                    "loss": 1.0,
                    "epoch": (at - back * logged) * epochs / step,
                    "device_memory_gb": 61.5,
                }
            )
        time += 1000.0  # the evaluation
        risen = 1 - 0.6 * (1 - i / evaluations) ** 2
        values = {
            f"val/{kind}/AP": result["metrics"][kind]["AP"] * risen
            for kind in ("bbox", "segm")
            if kind in result["metrics"]
        }
        lines.append({"step": at, "time": time, **values})
    return "".join(json.dumps(line) + "\n" for line in lines)


def write_run(folder: Path, result: dict, metrics: str = "") -> Path:
    """Writes what a finished run leaves, but checkpoints."""
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(result["config"]), encoding="utf-8")
    (folder / "metrics.jsonl").write_text(metrics, encoding="utf-8")
    return folder


@pytest.fixture
def write(tmp_path):
    """Writes a run of a config file under a name; `edit` may change its result."""

    def write_named(name, config="shapes_tiny", ap=0.5, *, seed=0, edit=None, masks=True, **words):
        result = result_of(config_of(config, **words), ap, masks=masks, seed=seed)
        metrics = metrics_of(result)
        if edit:
            edit(result)
        return write_run(tmp_path / "runs" / name, result, metrics)

    return write_named


def tables_of(*paths):
    return tables(gather(paths)[0])


def cells(grid, row: int) -> dict[str, str]:
    """A row's texts by "group head"."""
    heads = [f"{head.group} {head.text}".strip() for head in grid.heads]
    return dict(zip(heads, (cell.text for cell in grid.rows[row]), strict=True))


# What may stand in one table.


def test_what_an_initialisation_brings_and_the_protocol_tunes_is_no_other_recipe(write, tmp_path):
    for config in ("random", "supervised", "mocov3", "beit", "mae"):
        write(config, f"vitb_{config}", 0.4)
    write("large", "vitl_mae", 0.53)
    write("tuned", "vitb_mae", 0.41, optim__lr=3e-4, model__vit__drop_path=0.3, epochs=25.0)
    write("elsewhere", "vitb_mae", 0.42, data__root="/b", data__threads=3, eval_every=1.0, seed=1)
    (table,) = tables_of(tmp_path)
    assert [each.model for each in table.configurations] == 6 * ["ViT-B"] + ["ViT-L"]
    assert sorted(len(each.runs) for each in table.configurations) == [1, 1, 1, 1, 1, 1, 2]
    assert [each.initialisation for each in table.configurations][:5] == [
        "random",
        "supervised",
        "mocov3",
        "beit",
        "mae",
    ]


@pytest.mark.parametrize("kind", ["vitdet", "imted_mask"])
def test_models_of_different_size_share_a_recipe(write, tmp_path, kind):
    names = [f"{kind}_{size}" for size in "bl"]
    if kind == "vitdet":
        names = [f"{name}_mae" for name in names]
    for name in names:
        write(name, name)
    (table,) = tables_of(tmp_path)
    assert [each.model for each in table.configurations] == ["ViT-B", "ViT-L"]


@pytest.mark.parametrize(
    ("word", "value", "other"),
    [
        ("batch_size", 16, 64),
        ("image_size", 512, 1024),
        ("data__flip", False, True),
        ("model__vit__global_blocks", (), "the last of each quarter"),
        ("model__vit__relative_position", "none", "shared"),
        ("optim__warmup_epochs", 1.0, 0.25),
    ],
)
def test_another_recipe_has_a_table_of_its_own_that_says_so(write, tmp_path, word, value, other):
    first = write("a", "vitb_mae", 0.5)
    second = write("b", "vitb_beit", 0.6, **{word: value})
    one, two = tables_of(first, second)
    assert one.differences == ()
    expected = "none" if value == () else value
    assert two.differences == ((word.replace("__", "."), expected, other),)
    assert [len(table.configurations) for table in (one, two)] == [1, 1]
    html, markdown, _ = write_report([first, second], tmp_path / "out")
    for text in (html.read_text("utf-8"), markdown.read_text("utf-8").replace("\\", "")):
        assert "These runs are of 2 recipes" in re.sub(r"</?strong>", "", text)
        assert "Not comparable with recipe 1" in text
        assert word.replace("__", ".") in text


def test_a_layer_decay_is_tuned_but_none_at_all_is_another_recipe(write):
    paths = [
        write(f"decay_{decay}", "vitdet_b_mae", 0.5, optim__layer_decay=decay)
        for decay in (0.7, 0.8, 1.0)
    ]
    assert [len(table.configurations) for table in tables_of(*paths)] == [2, 1]


def test_a_whole_number_is_the_same_however_it_is_written(write):
    def as_float(result):
        result["config"]["batch_size"] = 8.0
        result["config_sha256"] = config_digest(result["config"])

    paths = [write("a"), write("b", seed=1, edit=as_float)]
    (table,) = tables_of(*paths)
    assert [len(each.runs) for each in table.configurations] == [2]


def test_other_validation_data_are_another_table(write):
    def fewer(result):
        result["images"]["val"] = 99

    def other_names(result):
        names = result["metrics"]["bbox"]["per_category"]
        names["square"] = names.pop("box")

    paths = [write("a"), write("b", edit=fewer, seed=1), write("c", edit=other_names, seed=2)]
    told = [[word for word, *_ in table.differences] for table in tables_of(*paths)]
    assert told == [[], ["validation images"], ["categories"]]


def test_results_that_do_not_tell_their_images_are_only_beside_those_of_the_same_folder(write):
    def older(result):
        del result["images"]

    paths = [
        write(name, "vitb_mae", 0.5, edit=older, seed=i, data__root=root, optim__lr=0.1 + i)
        for i, (name, root) in enumerate([("a", "/x/coco"), ("b", "/x/coco"), ("c", "/y/coco")])
    ]
    assert [len(table.configurations) for table in tables_of(*paths)] == [2, 1]


def test_the_seeds_of_a_configuration_are_a_row_with_mean_and_deviation(write, tmp_path):
    for seed, ap in enumerate((0.50, 0.52, 0.54)):
        config = config_of("shapes_tiny", seed=seed)
        write_run(tmp_path / f"seed{seed}", result_of(config, ap, seed=seed))
    (table,) = tables_of(tmp_path)
    (configuration,) = table.configurations
    number = configuration.coco("bbox")
    assert (number.count, number.mean, number.deviation) == (3, *map(pytest.approx, (0.52, 0.02)))
    row = cells(ap_grid(table), 0)
    assert row["Box AP ours"] == "52.0\u2009\u00b1\u20092.0"
    assert row["n"] == "3"
    assert row["Config \u00b7 weights"].count("\n") == 2


def test_weights_of_different_files_are_different_configurations(write, tmp_path):
    def from_other(result):
        result["init"]["sha256"] = 64 * "f"

    write("a", "vitb_mae", 0.5)
    write("b", "vitb_mae", 0.6, edit=from_other, seed=1)
    (table,) = tables_of(tmp_path)
    assert [len(each.runs) for each in table.configurations] == [1, 1]
    assert "weights fffffff" in {each.distinction for each in table.configurations}


def test_few_shot_runs_from_different_base_runs_are_no_seeds(write, tmp_path):
    for seed, base in enumerate(("/runs/base_a", "/runs/base_b", "/elsewhere/base_b")):
        write(f"run{seed}", "imted_10shot_b", 0.2, seed=seed, few_shot__base_run=base, masks=False)
    (table,) = tables_of(tmp_path)
    assert sorted(len(each.runs) for each in table.configurations) == [1, 2]
    assert {each.distinction for each in table.configurations} == {
        "base run base_a",
        "base run base_b",
    }


def test_folds_of_as_many_images_are_different_data(write):
    paths = [
        write(
            fold,
            "vitb_mae",
            0.5,
            seed=i,
            data__train_annotations=f"/data/{fold}_train.json",
            data__val_annotations=f"/data/{fold}_val.json",
        )
        for i, fold in enumerate(("fold0", "fold1"))
    ]
    _, second = tables_of(*paths)
    assert second.differences == (
        ("training annotations", "fold1_train.json", "fold0_train.json"),
        ("validation annotations", "fold1_val.json", "fold0_val.json"),
    )


def test_coco_s_own_annotation_files_are_what_a_folder_stands_for(write):
    path = "/data/annotations/instances_val2017.json"
    paths = [write("a", "vitb_mae", 0.5), write("b", "vitb_mae", data__val_annotations=path)]
    assert len(tables_of(*paths)) == 1


def test_folders_of_the_same_name_are_told_by_more_of_their_path(write, tmp_path):
    paths = [
        write(f"run{i}", "vitb_mae", 0.5, seed=i, data__root=root)
        for i, root in enumerate(("/data/city/set", "/data/farm/set", "/data/farm/set/"))
    ]
    (table,) = tables_of(*paths)
    assert table.data_folders == ["city/set", "farm/set"]
    html, _, _ = write_report(paths, tmp_path / "out")
    assert "The data lay in different folders (city/set, farm/set)" in html.read_text("utf-8")


# What is compared with the published numbers.


def test_the_published_number_and_the_difference_stand_beside_ours(write, tmp_path):
    write("mae", "vitb_mae", 0.512)
    write("random", "vitb_random", 0.4871)
    (table,) = tables_of(tmp_path)
    grid = ap_grid(table)
    random_row, mae = cells(grid, 0), cells(grid, 1)
    assert (mae["Box AP ours"], mae["Box AP published"], mae["Box AP difference"]) == (
        "51.2",
        "50.3",
        "+0.9",
    )
    assert (mae["Mask AP published"], mae["Mask AP difference"]) == ("44.9", "+0.7")
    assert (random_row["Box AP published"], random_row["Box AP difference"]) == (
        "48.9",
        "\u22120.2",
    )
    by_head = dict(zip([(h.group, h.text) for h in grid.heads], grid.rows[0], strict=True))
    assert by_head["Box AP", "published"].mark == ""
    assert by_head["Mask AP", "published"].mark == "?"
    note = grid.notes[by_head["Mask AP", "published"].note - 1]
    assert "mask AP recalled, not read again" in note.text
    assert note.link[1] == "https://arxiv.org/abs/2111.11429"
    assert [cell.is_best for cell in (grid.rows[0][4], grid.rows[1][4])] == [False, True]


def test_imted_is_compared_with_its_own_numbers(write):
    (table,) = tables_of(write("a", "imted_mask_b", 0.5))
    (configuration,) = table.configurations
    assert (configuration.published.system, configuration.published.box_ap) == ("imTED", 53.3)
    assert configuration.departures == ()
    assert cells(ap_grid(table), 0)["Mask AP published"] == "46.4"


def test_shapes_are_never_compared(write, tmp_path):
    write("a")
    html, _, _ = write_report([tmp_path], tmp_path / "out")
    (table,) = tables_of(tmp_path)
    grid = ap_grid(table)
    assert cells(grid, 0)["Box AP published"] == "\u2013"
    assert "Box AP difference" not in cells(grid, 0)
    assert [note.text for note in grid.notes] == [
        "Validated on shapes; published numbers are of COCO val2017."
    ]
    assert grid.notes[0].text in html.read_text("utf-8")


def test_nor_are_other_sets_in_coco_s_format_parts_of_coco_and_few_shots(write):
    def own(result):
        for kind in ("bbox", "segm"):
            names = result["metrics"][kind]["per_category"]
            result["metrics"][kind]["per_category"] = {f"my {name}": names[name] for name in names}

    def part(result):
        result["images"]["val"] = 500

    paths = [
        write("own", "vitb_mae", 0.5, edit=own),
        write("part", "vitb_mae", 0.5, edit=part),
        write("few", "vitb_mae", 0.5, few_shot__novel=("dog",)),
        write("unknown", "vitb_mae", 0.5, epochs=13.0),
    ]
    for path in paths:
        (table,) = tables_of(path)
        (configuration,) = table.configurations
        assert configuration.published is None
        assert configuration.unpublished


def test_in_what_a_run_is_not_the_published_recipe_is_said(write, tmp_path):
    paths = [write("a", "vitb_mae", 0.5), write("b", "vitb_mae", 0.5, batch_size=16)]
    one, two = tables_of(*paths)
    assert one.configurations[0].departures == ()
    assert two.configurations[0].departures == (("batch_size", 16, 64),)
    assert "batch_size 16 (published: 64)" in ap_grid(two).notes[0].text

    def tenth(result):
        result["images"]["train"] = 11_700

    (table,) = tables_of(write("c", "vitdet_b_mae", 0.5, edit=tenth))
    assert [word for word, *_ in table.configurations[0].departures] == ["training images"]


# What is read, and what is not.


def test_a_result_from_before_the_newer_fields_is_reported(write, tmp_path):
    def older(result):
        for name in ("evaluated", "epochs", "images", "config_sha256", "checkpoint_sha256", "init"):
            del result[name]
        del result["evaluation"], result["metrics"]["tide"]
        del result["config"]["few_shot"], result["config"]["model"]["decoder"]

    path = write("a", edit=older)
    run = read_run(path)
    assert run.epochs == pytest.approx(8.0)
    assert run.config["few_shot"]["novel"] == []
    assert run.checkpoint_sha256 is None
    assert run.scores["bbox"].tide is None
    html, markdown, _ = write_report([path], tmp_path / "out")
    assert "not told" in html.read_text("utf-8")
    assert "not told" in markdown.read_text("utf-8")


def test_a_run_without_metrics_masks_or_some_numbers_is_reported(write, tmp_path):
    def empty(result):
        result["metrics"]["bbox"].update(AP=None, APl=None)
        result["metrics"]["bbox"]["per_category"]["star"] = None
        result["metrics"]["tide"]["bbox"]["main"]["Cls"] = None

    path = write("a", edit=empty, masks=False)
    (path / "metrics.jsonl").unlink()
    other = write("b", masks=False, optim__lr=0.1, seed=1)
    (table,) = tables_of(tmp_path)
    assert table.kinds == ("bbox",)
    assert "\u2013" in [cells(ap_grid(table), i)["Box AP ours"] for i in (0, 1)]
    html, _, _ = write_report([path, other], tmp_path / "out")
    assert "Mask AP" not in html.read_text("utf-8")


def test_converted_weights_are_said_to_be_evaluated_as_given(write, tmp_path):
    def converted(result):
        result.update(evaluated="converted detector", epochs=None, step=0)

    (table,) = tables_of(write("a", "vitdet_b_mae", 0.516, edit=converted))
    assert cells(ap_grid(table), 0)["Epochs"] == "\u2013"
    assert "not trained in this run" in ap_grid(table).notes[0].text


def test_detections_from_a_file_are_not_given_the_config_s_model(write, tmp_path):
    def from_file(result):
        result.update(
            evaluated="file of detections",
            checkpoint="/somewhere/theirs.json",
            epochs=None,
            step=0,
            parameters=None,
            device=None,
            evaluation={"seconds": {"detect": None, "score": 1.0}, "images_per_second": None},
        )
        result["images"]["train"] = None

    ours = write("ours", "vitb_mae", 0.5)
    theirs = write("theirs", "vitb_mae", 0.6, seed=1, edit=from_file)
    one, two = tables_of(ours, theirs)
    assert two.differences == (
        ("detections", "from a file", "by this detector"),
        ("training images", None, 117_266),
    )
    (configuration,) = two.configurations
    assert (configuration.initialisation, configuration.model) == ("theirs.json", "not told")
    assert configuration.published is None
    assert one.configurations[0].published is not None
    assert complexity_grid(two) is None
    html, markdown, _ = write_report([ours, theirs], tmp_path / "out")
    Page(html.read_text("utf-8"))
    assert "what made them is not known" in markdown.read_text("utf-8")


def test_training_rate_leaves_out_the_evaluations(write):
    run = read_run(write("a"))
    assert run.train_rate == pytest.approx(20 * 8 / 2.0)
    assert run.eval_rate == 33.3
    assert run.memory_gb == 61.5
    assert [moment.epoch for moment in run.history] == [float(i) for i in range(1, 9)]
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


DAMAGES = {
    "unfinished: no result.json (its metrics end at step 2000)": no_result,
    "unfinished: evaluated after 4 of 8 epochs": edited(lambda r: r.update(epochs=4.0, step=1000)),
    "result.json cannot be read": broken_json,
    "NaN is no JSON number": not_a_number,
    "has no metrics": edited(lambda r: r.pop("metrics")),
    "has no config": edited(lambda r: r.update(config=[])),
    "metrics.bbox has no AP": edited(lambda r: r["metrics"]["bbox"].pop("AP")),
    "bbox.AP is 50.3, not in 0..1": edited(lambda r: r["metrics"]["bbox"].update(AP=50.3)),
    "segm.per_category.star is '<b>'": edited(
        lambda r: r["metrics"]["segm"]["per_category"].update(star="<b>")
    ),
    "config_sha256": edited(lambda r: r["config"].update(seed=5)),
    "not a config of this version": edited(
        lambda r: (r["config"]["model"]["vit"].update(width="wide"), r.pop("config_sha256"))
    ),
    "config.model.vit.depth is above 1000": edited(
        lambda r: (r["config"]["model"]["vit"].update(depth=10**9), r.pop("config_sha256"))
    ),
    "config.model.vit.depth is not a whole number": edited(
        lambda r: (r["config"]["model"]["vit"].update(depth=4.5), r.pop("config_sha256"))
    ),
    "config.batch_size is above": edited(
        lambda r: (r["config"].update(batch_size=10**400), r.pop("config_sha256"))
    ),
    "config.few_shot.novel is a section": edited(
        lambda r: (r["config"]["few_shot"].update(novel={}), r.pop("config_sha256"))
    ),
    "config.model.heads.mask is a section": edited(
        lambda r: (r["config"]["model"]["heads"].update(mask={}), r.pop("config_sha256"))
    ),
    "bbox.AP is 1000": edited(lambda r: r["metrics"]["bbox"].update(AP=10**400)),
    "result.json has no step": edited(lambda r: r.update(step=10**400)),
    "config.model.vit is not a section": edited(
        lambda r: (r["config"]["model"].update(vit=3), r.pop("config_sha256"))
    ),
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


def test_what_nobody_thought_of_costs_one_run(write, tmp_path, monkeypatch):
    broken, sound = write("broken"), write("sound", optim__lr=0.1, seed=1)

    def read(folder):
        if folder == broken:
            raise MemoryError("too much\nof it")
        return read_run(folder)

    monkeypatch.setattr("jaxdet.benchmark.reporting.runs.read_run", read)
    runs, (skipped,) = gather([broken, sound])
    assert [run.folder for run in runs] == [sound]
    assert skipped.reason == "damaged: it cannot be read (MemoryError: too much)"


def test_numbers_beyond_measure_are_not_told(write, tmp_path):
    def huge(result):
        result.update(parameters=10**400, evaluation={"images_per_second": 10**400})

    path = write("a", edit=huge)
    with (path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 10**400, "time": 10**400, "val/bbox/AP": 10**400}) + "\n")
    run = read_run(path)
    assert (run.parameters, run.eval_rate) == (None, None)
    assert run.history[-1].epoch == 8.0
    write_report([path], tmp_path / "out")


def test_a_depth_written_as_a_float_is_the_same_depth(write, tmp_path):
    def as_float(result):
        result["config"]["model"]["vit"]["depth"] = 12.0
        result["config_sha256"] = config_digest(result["config"])

    paths = [write("a", "vitb_mae", 0.5), write("b", "vitb_mae", 0.5, seed=1, edit=as_float)]
    (table,) = tables_of(*paths)
    assert [len(each.runs) for each in table.configurations] == [2]
    write_report(paths, tmp_path / "out")


def test_text_that_is_no_unicode_is_written_all_the_same(write, tmp_path):
    def lone(result):
        names = result["metrics"]["bbox"]["per_category"]
        names["\ud800"] = names.pop("star")
        result["device"] = "\udfff"
        del result["images"]
        result["evaluated_on"] = {**result["evaluated_on"], "root": "/\ud800"}

    html, markdown, _ = write_report([write("a", edit=lone)], tmp_path / "out")
    assert "?" in markdown.read_text("utf-8")
    assert "<dd>?</dd>" in html.read_text("utf-8")
    coco = write("b", "vitb_mae", 0.5, data__root="/\ud800", edit=lambda r: r.pop("images"))
    write_report([coco], tmp_path / "out")


def test_a_reason_holds_a_folder_s_name_and_not_its_path():
    assert Skipped(Path("/x/a"), "see /x/a. So").reason_without_path == "see a. So"
    assert Skipped(Path("."), "see a.json. So").reason_without_path == "see a.json. So"


def test_a_copy_of_a_run_is_not_another_seed(write, tmp_path):
    write("a", seed=3)
    write("b", seed=3)
    runs, skipped = gather([tmp_path])
    assert len(runs) == 1
    assert "the same result as in a" in skipped[0].reason


def test_nothing_to_report_is_an_error(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "no finished run" in capsys.readouterr().err
    assert main([str(tmp_path / "missing")]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_a_file_as_out_is_an_error(write, tmp_path):
    path = write("a")
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match="another --out"):
        write_report([path], tmp_path / "taken")


# The page.

VOID = ("meta", "br", "img")


class Page(HTMLParser):
    """Demands that every opened element is closed; collects elements and text."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        assert len(dict(attributes)) == len(attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def attributes(self, *names):
        return [each[name] for _, each in self.elements for name in names if name in each]


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
    del result["config_sha256"]


@pytest.fixture
def pages(write, tmp_path):
    """The page and the tables of many kinds of runs, by name."""
    picture = Image.effect_noise((640, 320), 90).convert("RGB")
    coco = [
        write(f"coco/{name}", name, 0.5, seed=i)
        for i, name in enumerate(("vitb_random", "vitb_mae", "vitl_mae", "vitdet_b_mae"))
    ]
    shapes = [
        write(f"shapes/{i}", ap=0.4 + i / 100, seed=i, optim__lr=0.001 + i / 1000)
        for i in range(10)
    ]
    picture.save(shapes[0] / "detections.png")
    few = write("few", "imted_shapes_fewshot", 0.3, masks=False)
    attack = write('attack "<b>&amp;', edit=hostile)
    kinds = {"coco": coco, "shapes": shapes, "one": [few], "hostile": [attack, shapes[1]]}
    made = {}
    for kind, paths in kinds.items():
        html, markdown, _ = write_report(paths, tmp_path / "out" / kind)
        made[kind] = html.read_text("utf-8"), markdown.read_text("utf-8")
        again, _, _ = write_report(paths, tmp_path / "again" / kind)
        assert again.read_text("utf-8") == made[kind][0]
    return made


def test_pages_are_sound_and_need_nothing_from_outside(pages):
    known = {source.address for source in sources().values()}
    for html, _ in pages.values():
        page = Page(html)
        tags = {tag for tag, _ in page.elements}
        assert not tags & {"script", "link", "iframe", "object", "form", "b" * 2}
        identities = page.attributes("id")
        assert len(set(identities)) == len(identities)
        for source in page.attributes("src"):
            assert source.startswith("data:image/webp;base64,")
        for link in page.attributes("href"):
            assert link in known or link.removeprefix("#") in identities
        assert not any(name.startswith("on") for _, each in page.elements for name in each)
        assert "url(" not in html
        assert "@import" not in html
        for tag, each in page.elements:
            if tag == "svg" and "aria-hidden" not in each:
                assert each["role"] == "img"
                assert all(name in identities for name in each["aria-labelledby"].split())
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
    assert "<script" not in html
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


def test_differences_by_category_are_the_largest(write):
    paths = [write("a", "vitb_random", 0.4), write("b", "vitb_mae", 0.5, seed=1)]
    (table,) = tables_of(*paths)
    ((base, other),) = comparisons(table)
    assert (base.initialisation, other.initialisation) == ("random", "mae")
    gains = category_gains(base, other, table.categories)
    assert len(gains) == 10
    before, after = (each.first.scores["bbox"].per_category for each in (base, other))
    every = sorted((100 * (after[name] - before[name]) for name in COCO), reverse=True)
    assert [gain for _, gain in gains] == pytest.approx(every[:5] + every[-5:])


def test_complexity_is_told_once_for_models_of_the_same_structure(write):
    paths = [write(name, name, 0.5) for name in ("vitb_random", "vitb_mae", "vitl_mae")]
    (table,) = tables_of(*paths)
    grid = complexity_grid(table)
    assert [row[0].text for row in grid.rows] == ["A\u2013B", "C"]
    assert cells(grid, 0)["Multiply-adds, 10\u2079 in all"] == "853"
    assert cells(grid, 0)["Parameters"] == "116"


def test_pictures_are_made_small_and_broken_ones_left_out(tmp_path):
    noise = Image.effect_noise((2400, 1200), 100).convert("RGB")
    noise.save(tmp_path / "noise.png")
    content = small_picture(tmp_path / "noise.png")
    assert 0 < len(content) <= LARGEST_PICTURE
    (tmp_path / "broken.png").write_bytes((tmp_path / "noise.png").read_bytes()[:5000])
    assert small_picture(tmp_path / "broken.png") is None
    assert small_picture(tmp_path / "missing.png") is None
    Image.new("RGB", (100, 20_000)).save(tmp_path / "long.png")  # WebP ends at 16383
    assert small_picture(tmp_path / "long.png") is None


# Charts.


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (47.1, 50.2, [47, 48, 49, 50, 51]),
        (0, 0, [0, 1e-9]),
        (0.3, 0.3, None),
    ],
)
def test_ticks_are_round_and_enclose(low, high, expected):
    found = ticks(low, high, 5)
    assert len(found) >= 2
    assert found[0] <= low <= high <= found[-1] + 1e-12
    if expected and high:
        assert found == pytest.approx(expected)


def test_labels_are_spread_in_order_without_touching():
    wanted = [50.0, 50.0, 51.0, 120.0, 49.0]
    places = spread(wanted, 16, 0, 200)
    ordered = sorted(places)
    assert min(b - a for a, b in pairwise(ordered)) >= 16 - 1e-9
    assert places[4] < places[0] < places[2] < places[3]
    assert places[3] == 120.0
    assert spread([10.0, 90.0], 16, 0, 100) == [10.0, 90.0]


def test_numbers_have_true_signs_and_no_negative_zero():
    assert [signed(value) for value in (0.44, -0.44, 0.04, -0.04)] == [
        "+0.4",
        "\u22120.4",
        "0.0",
        "0.0",
    ]


def test_long_names_are_cut_in_charts_and_whole_in_their_description():
    name = "a category whose name is longer than any chart is wide"
    assert text_width(clipped(name, 20)) <= text_width(20 * "x")
    chart = difference_chart([(name, 1.0)], Series("A"), identity="x", title="t")
    assert f">{name}</text>" not in chart
    assert name in chart
