"""Which runs share a section of the report, and which a row."""

from __future__ import annotations

import re

import pytest

from jaxdet.benchmark.report import write_report
from jaxdet.benchmark.reporting.tables import ap_table
from jaxdet.benchmark.reporting.text import recipe_title
from jaxdet.config.values import config_digest
from tests.benchmark.reporting.made_up import cells, config_of, result_of, sections_of, write_run


def test_what_an_initialisation_brings_and_the_protocol_tunes_is_no_other_recipe(write, tmp_path):
    for config in ("random", "supervised", "mocov3", "beit", "mae"):
        write(config, f"vitb_{config}", 0.4)
    write("large", "vitl_mae", 0.53)
    write("tuned", "vitb_mae", 0.41, optim__lr=3e-4, model__vit__drop_path=0.3, epochs=25.0)
    write("elsewhere", "vitb_mae", 0.42, data__root="/b", data__threads=3, eval_every=1.0, seed=1)
    (section,) = sections_of(tmp_path)
    assert [each.model for each in section.groups] == 6 * ["ViT-B"] + ["ViT-L"]
    assert sorted(len(each.runs) for each in section.groups) == [1, 1, 1, 1, 1, 1, 2]
    assert [each.initialisation for each in section.groups][:5] == [
        "random",
        "supervised",
        "mocov3",
        "beit",
        "mae",
    ]


def test_a_frozen_vit_is_named_in_the_table_s_title(write, tmp_path):
    write("frozen", "vitb_mae", optim__train="heads")
    (section,) = sections_of(tmp_path)
    assert recipe_title(section).endswith("batch 64, frozen ViT")


@pytest.mark.parametrize("kind", ["vitdet", "imted_mask"])
def test_models_of_different_size_share_a_recipe(write, tmp_path, kind):
    form = {"vitdet": "vitdet_{}_mae", "imted_mask": "imted_mask:{}"}[kind]
    names = [form.format(size) for size in "bl"]
    for name in names:
        write(name, name)
    (section,) = sections_of(tmp_path)
    assert [each.model for each in section.groups] == ["ViT-B", "ViT-L"]


@pytest.mark.parametrize(
    ("key", "value", "other"),
    [
        ("batch_size", 16, 64),
        ("image_size", 512, 1024),
        ("data__flip", False, True),
        ("model__vit__global_blocks", (), "the last of each quarter"),
        ("model__vit__relative_position", "none", "shared"),
        ("optim__warmup_epochs", 1.0, 0.25),
        ("optim__train", "heads", "all"),
    ],
)
def test_another_recipe_has_a_table_of_its_own_that_says_so(write, tmp_path, key, value, other):
    first = write("a", "vitb_mae", 0.5)
    second = write("b", "vitb_beit", 0.6, **{key: value})
    one, two = sections_of(first, second)
    assert one.deviations == ()
    expected = "none" if value == () else value
    assert two.deviations == ((key.replace("__", "."), expected, other),)
    assert [len(section.groups) for section in (one, two)] == [1, 1]
    html, markdown, _ = write_report([first, second], tmp_path / "out")
    for text in (html.read_text("utf-8"), markdown.read_text("utf-8").replace("\\", "")):
        assert "These runs are of 2 recipes" in re.sub(r"</?strong>", "", text)
        assert "Not comparable with recipe 1" in text
        assert key.replace("__", ".") in text


def test_a_layer_decay_is_tuned_but_none_at_all_is_another_recipe(write):
    paths = [
        write(f"decay_{decay}", "vitdet_b_mae", 0.5, optim__layer_decay=decay)
        for decay in (0.7, 0.8, 1.0)
    ]
    assert [len(section.groups) for section in sections_of(*paths)] == [2, 1]


def test_a_whole_number_is_the_same_however_it_is_written(write):
    def as_float(result):
        result["config"]["batch_size"] = 8.0
        result["config_sha256"] = config_digest(result["config"])

    paths = [write("a"), write("b", seed=1, edit=as_float)]
    (section,) = sections_of(*paths)
    assert [len(each.runs) for each in section.groups] == [2]


def test_a_depth_written_as_a_float_is_the_same_depth(write, tmp_path):
    def as_float(result):
        result["config"]["model"]["vit"]["depth"] = 12.0
        result["config_sha256"] = config_digest(result["config"])

    paths = [write("a", "vitb_mae", 0.5), write("b", "vitb_mae", 0.5, seed=1, edit=as_float)]
    (section,) = sections_of(*paths)
    assert [len(each.runs) for each in section.groups] == [2]
    write_report(paths, tmp_path / "out")


def test_other_validation_data_are_another_table(write):
    def fewer(result):
        result["images"]["val"] = 99

    def other_names(result):
        names = result["metrics"]["bbox"]["per_category"]
        names["square"] = names.pop("box")

    paths = [write("a"), write("b", edit=fewer, seed=1), write("c", edit=other_names, seed=2)]
    found = [[key for key, *_ in section.deviations] for section in sections_of(*paths)]
    assert found == [[], ["validation images"], ["categories"]]


def test_the_seeds_of_a_config_are_a_row_with_mean_and_deviation(write, tmp_path):
    for seed, ap in enumerate((0.50, 0.52, 0.54)):
        config = config_of("shapes_tiny", seed=seed)
        write_run(tmp_path / f"seed{seed}", result_of(config, ap, seed=seed))
    (section,) = sections_of(tmp_path)
    (group,) = section.groups
    number = group.coco("bbox")
    assert (number.count, number.mean, number.deviation) == (3, *map(pytest.approx, (0.52, 0.02)))
    row = cells(ap_table(section), 0)
    assert row["Box AP ours"] == "52.0\u2009\u00b1\u20092.0"
    assert row["n"] == "3"
    assert row["Config \u00b7 weights"].count("\n") == 2


def test_weights_of_different_files_are_different_groups(write, tmp_path):
    def from_other(result):
        result["init"]["sha256"] = 64 * "f"

    write("a", "vitb_mae", 0.5)
    write("b", "vitb_mae", 0.6, edit=from_other, seed=1)
    (section,) = sections_of(tmp_path)
    assert [len(each.runs) for each in section.groups] == [1, 1]
    assert "weights fffffff" in {each.distinction for each in section.groups}


def test_few_shot_runs_from_different_base_runs_are_no_seeds(write, tmp_path):
    for seed, base in enumerate(("/runs/base_a", "/runs/base_b", "/elsewhere/base_b")):
        write(
            f"run{seed}", "imted_fewshot:10", 0.2, seed=seed, few_shot__base_run=base, masks=False
        )
    (section,) = sections_of(tmp_path)
    assert sorted(len(each.runs) for each in section.groups) == [1, 2]
    assert {each.distinction for each in section.groups} == {
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
    _, second = sections_of(*paths)
    assert second.deviations == (
        ("training annotations", "fold1_train.json", "fold0_train.json"),
        ("validation annotations", "fold1_val.json", "fold0_val.json"),
    )


def test_coco_s_own_annotation_files_are_what_a_folder_stands_for(write):
    path = "/data/annotations/instances_val2017.json"
    paths = [write("a", "vitb_mae", 0.5), write("b", "vitb_mae", data__val_annotations=path)]
    assert len(sections_of(*paths)) == 1


def test_folders_of_the_same_name_are_shown_with_more_of_their_path(write, tmp_path):
    paths = [
        write(f"run{i}", "vitb_mae", 0.5, seed=i, data__root=root)
        for i, root in enumerate(("/data/city/set", "/data/farm/set", "/data/farm/set/"))
    ]
    (section,) = sections_of(*paths)
    assert section.data_folders == ["city/set", "farm/set"]
    html, _, _ = write_report(paths, tmp_path / "out")
    assert "The data are from different folders (city/set, farm/set)" in html.read_text("utf-8")


def test_runs_that_trained_on_the_images_they_are_validated_on_say_so(write, tmp_path):
    same = {"validated_on_training_images": True}
    paths = [write("a", seed=0, edit=lambda result: result.update(same)), write("b", seed=1)]
    html, markdown, _ = write_report(paths, tmp_path / "out")
    for page in (html, markdown):
        text = " ".join(page.read_text("utf-8").split())
        assert "100 images of 4 categories; the same images trained 1 of 2 runs, so that" in text
    html, _, _ = write_report(paths[1:], tmp_path / "out")
    assert "the same images" not in html.read_text("utf-8")


def digests(train, val):
    def edit(result):
        result["annotations_sha256"] = {"train": train, "val": val}

    return edit


def test_data_that_differ_in_their_annotations_never_share_a_table(write, tmp_path):
    write("a", seed=0, edit=digests("1" * 64, "2" * 64))
    write("b", seed=1, edit=digests("1" * 64, "2" * 64))
    write("old", seed=2)
    (section,) = sections_of(tmp_path)
    assert [len(group.runs) for group in section.groups] == [3]

    write("swapped", seed=3, edit=digests("3" * 64, "2" * 64))
    sections = sections_of(tmp_path)
    assert [[len(group.runs) for group in each.groups] for each in sections] == [[2], [1], [1]]
    (deviation,) = sections[2].deviations
    assert deviation == ("SHA-256 of the training annotations", "3" * 12, "1" * 12)


def test_two_runs_of_one_seed_are_no_seeds_of_each_other(write, tmp_path):
    write("a", ap=0.4, seed=0)
    write("again", ap=0.5, seed=0, edit=lambda result: result.update(checkpoint_sha256="f" * 64))
    write("other", ap=0.6, seed=1)
    (section,) = sections_of(tmp_path)
    assert [[run.folder.name for run in group.runs] for group in section.groups] == [
        ["a", "other"],
        ["again"],
    ]
    assert [group.distinction for group in section.groups] == [
        "run of its seed 1",
        "run of its seed 2",
    ]
    assert section.groups[0].coco("bbox").mean == pytest.approx(0.5)
