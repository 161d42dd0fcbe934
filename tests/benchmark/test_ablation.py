"""The paper's tables: the keys of each row, shared rows, and what they are compared with."""

from __future__ import annotations

import pytest

from jaxdet.benchmark.ablation import _parser as parser
from jaxdet.benchmark.ablation import attention, main, position, scales, table_rows
from jaxdet.benchmark.complexity import Complexity
from jaxdet.benchmark.cost.analytic import forward_cost
from jaxdet.benchmark.trials.cost import Data
from jaxdet.benchmark.trials.flags import read_arguments
from jaxdet.config.files import load_config
from jaxdet.config.mask_rcnn import check

WORKDIR = "/nowhere/ablations"


def planned(*arguments: str):
    """The rows that a command line plans, by name of folder."""
    given = read_arguments(parser(), [*arguments, f"--workdir={WORKDIR}"])
    rows = list(table_rows(*given))
    found = {row.trial.name: row for row in rows}
    assert len(found) == len(rows)
    return found


def box_aps(*arguments: str):
    """The published box AP of each row, None without one."""
    return [row.published and row.published.box_ap for row in planned(*arguments).values()]


def overrides(rows):
    return [row.overrides for row in rows]


def test_rows_of_attention():
    assert overrides(attention(load_config("vitl_mae"))) == [
        {"model.vit.global_blocks": ()},
        {},
        {"model.vit.global_blocks": tuple(range(24)), "model.vit.remat": "block"},
    ]


def test_rows_of_scales():
    assert overrides(scales(load_config("vitl_mae"))) == [
        {"model.pyramid.kind": "single", "model.detector.strides": (16,)},
        {},
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mae", ["default", "norel", "absrandom", "abssincos", "absnone"]),
        ("beit", ["default", "relzero", "norel", "abssincos", "absnone"]),
        ("random", ["default", "norel", "abssincos", "absnone"]),
    ],
)
def test_rows_of_position(name, expected):
    assert [row.name for row in position(load_config(f"vitl_{name}"))] == expected


@pytest.mark.parametrize("table", ["attention", "position", "epochs"])
@pytest.mark.parametrize("name", ["mae", "beit", "random", "my_mae"])
def test_every_row_is_a_valid_config(table, name):
    for row in planned(table, f"--init={name}").values():
        check(row.trial.config)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["attention", "--init=mae"], [50.7, 53.3, 53.1]),
        (["attention", "--init=mae", "--epochs=25"], [None, 53.3, None]),
        (["scales", "--init=mae"], [52.0, 53.3]),
        (["scales", "--init=mae", "--size=b"], [48.4, 50.1]),
        (["position", "--init=mae"], [53.3, 53.0, None, None, None]),
        (["position", "--init=beit"], [53.3, None, None, None, None]),
        (["epochs", "--init=mae", "--size=b"], [48.1, 50.1, 50.3]),
        (["epochs", "--init=my_mae", "--size=b"], [None] * 3),
        (
            [
                "pretraining",
                "--init=mae",
                *(f"--checkpoint={n}=/{n}.npz" for n in (400, 800, 1600)),
            ],
            [None, 53.1, 53.3],
        ),
        (["pretraining", "--init=my_mae", "--checkpoint=800=/a.npz"], [None]),
        (["initialisations"], [50.7]),
        (
            ["initialisations", "--checkpoint=mae=/m.npz", "--checkpoint=beit=/b.npz"],
            [50.7, 53.3, 53.3],
        ),
        (["attention", "--config=tests/tiny.py"], [None] * 3),
        (["vitdet-pyramid"], [51.2, 54.4, 54.6, 54.6]),
        (["vitdet-pyramid", "--size=b"], [47.8, 50.3, 50.9, 51.2]),
        (["vitdet-pyramid", "--epochs=50"], [None] * 4),
        (["vitdet-pyramid", "--init=my_mae"], [None] * 4),
        (
            ["vitdet-propagation"],
            [52.9, 54.6, 54.0, 54.3, 54.8, 54.6, 52.9, 54.3, 54.4, 55.1],
        ),
        (
            ["vitdet-propagation", "--size=b"],
            [48.9, 51.2, 50.1, 50.6, 50.7, 51.0, 49.1, 50.9, 50.7, 50.4],
        ),
        (["vitdet-propagation", "--size=h"], [None] * 10),
    ],
)
def test_rows_are_compared_with_what_is_published_of_them(arguments, expected):
    assert box_aps(*arguments) == expected


def test_lengths():
    assert {row.trial.config.epochs for row in planned("attention", "--init=mae").values()} == {50}
    found = planned("epochs", "--init=random")
    assert [row.trial.config.epochs for row in found.values()] == [100, 200, 400]
    found = planned("epochs", "--init=mae", "--epochs=5,10")
    assert [row.trial.config.epochs for row in found.values()] == [5, 10]
    found = planned("initialisations", "--checkpoint=mae=/m.npz")
    assert [row.text for row in found.values()] == ["random, 200 epochs", "mae, 50 epochs"]


def test_checkpoints_are_what_rows_start_from():
    found = planned("pretraining", "--init=mae", "--checkpoint=800=/a.npz", "--checkpoint=x=/x.npz")
    assert {name: row.trial.config.init for name, row in found.items()} == {
        "vitl_mae_from_800_50ep": "/a.npz",
        "vitl_mae_from_x_50ep": "/x.npz",
    }
    found = planned("initialisations", "--checkpoint=my=/my.npz", "--checkpoint=mae=/mae.npz")
    starts = [(row.trial.config.initialisation, row.trial.config.init) for row in found.values()]
    assert starts == [("random", None), ("mae", "/mae.npz"), ("my", "/my.npz")]


@pytest.mark.parametrize("table", ["vitdet-pyramid", "vitdet-propagation"])
@pytest.mark.parametrize("size", ["b", "l", "h"])
def test_every_row_of_vitdet_is_a_valid_config_without_positions(table, size):
    for row in planned(table, f"--size={size}").values():
        check(row.trial.config)
        assert row.trial.config.model.vit.relative_position == "none"


def test_what_propagation_costs_is_beside_what_is_published(capsys, monkeypatch):
    def counted(config, detections):
        """The parameters are those of the real models."""
        costs = forward_cost(config, 80, proposals=1000, masks=detections)
        return Complexity(
            {"all": 330_462_880 + 13_720_000 * bool(config.model.vit.conv_blocks)}, costs
        )

    monkeypatch.setattr("jaxdet.benchmark.ablation_vitdet.complexity", counted)
    assert main(["vitdet-cost", f"--workdir={WORKDIR}"]) == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:6]]
    assert [row[0] for row in rows] == [
        "none",
        "4 global blocks",
        "4 bottleneck convolution blocks",
        "24 global blocks, rematerialised",
    ]
    assert [row[1:4] for row in rows[::2]] == [["330.5", "1.00", "1.00"], ["344.2", "1.04", "1.04"]]
    assert [row[9] for row in rows] == ["1.00", "1.39", "1.05", "3.34"]


TINY = ["--config=tests/tiny.py", "--peak-tflops=1", "--epochs=1"]


def test_a_table_is_trained_printed_and_shares_its_rows(tmp_path, trainer, capsys):
    trainer.score = lambda config: 0.1 + 0.1 * len(config.model.vit.global_blocks)
    flags = [*TINY, f"--workdir={tmp_path}"]
    assert main(["attention", *flags]) == 0
    assert trainer.ran == ["tiny_windowed_1ep", "tiny_default_1ep", "tiny_global_1ep"]
    said = capsys.readouterr().out
    assert said.index("device-hours") < said.index("running, see")
    assert said.rstrip().splitlines()[-3:] == [
        "| windowed only | 10.0 | - | - | 5.0 | - | - |",
        "| windowed and 1 global | 20.0 | - | - | 10.0 | - | - |",
        "| all global, rematerialised | 30.0 | - | - | 15.0 | - | - |",
    ]
    trainer.ran.clear()
    assert main(["position", "--rows=1,2", *flags]) == 0
    assert trainer.ran == ["tiny_norel_1ep"]
    assert (
        "tiny_default_1ep: box AP 20.0, mask AP 10.0 (finished before)" in capsys.readouterr().out
    )


def test_a_diverged_row_is_in_the_table(tmp_path, trainer, capsys):
    trainer.score = lambda config: 0.1 if config.model.vit.global_blocks else "diverged"
    assert main(["attention", *TINY, f"--workdir={tmp_path}"]) == 0
    assert "| windowed only | diverged | - | - |" in capsys.readouterr().out


@pytest.mark.parametrize(("images", "expected"), [(117_266, "53.3 [1]"), (500, "-")])
def test_only_on_coco_is_a_row_compared(tmp_path, trainer, capsys, monkeypatch, images, expected):
    data = Data(images, 80, "counted")
    monkeypatch.setattr("jaxdet.benchmark.ablation.data_of", lambda config: data)
    (tmp_path / "mae.npz").touch()
    flags = ["--init=mae", f"--weights={tmp_path / 'mae.npz'}", "--peak-tflops=1", "--rows=2"]
    assert main(["scales", *flags, f"--workdir={tmp_path}"]) == 0
    assert f"| FPN | 50.0 | {expected} |" in capsys.readouterr().out


@pytest.mark.parametrize("rows", ["1,2,3", "2", "3,2"])
def test_the_stated_speed_is_that_of_the_recipe_whatever_rows_are_chosen(capsys, rows):
    flags = ["--init=mae", "--images-per-second=10", "--dry-run", f"--rows={rows}"]
    assert main(["attention", *flags, f"--workdir={WORKDIR}"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "and 4 global" in line)
    assert line.split()[-1] == "163"  # 50 epochs of 117,266 images at 10 a second


def test_a_dry_run_only_prints(trainer, capsys):
    flags = ["--init=mae", "--images-per-second=10", "--dry-run", f"--workdir={WORKDIR}"]
    assert main(["attention", *flags]) == 0
    said = capsys.readouterr().out
    assert "windowed and 4 global" in said
    assert not trainer.ran
    assert "10 images/s a device, as given" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["attention"], "--init names what to start from"),
        (["attention", "--init=mae"], "the weights to start mae from are not given"),
        (["attention", "--init=mae", "--checkpoint=a=/b"], "attention takes --weights=FILE"),
        (["pretraining", "--init=mae"], "give --checkpoint=NAME=FILE for each"),
        (["initialisations", "--weights=/a.npz"], "takes --checkpoint=NAME=FILE for each"),
        (["initialisations", "--init=mae"], "not by --init"),
        (["initialisations", "--checkpoint=random=/a"], "random initialisation has no weights"),
        (
            ["initialisations", "--checkpoint=a=/a", "--checkpoint=a=/b"],
            "two of --checkpoint=NAME=FILE have the same name",
        ),
        (["attention", "--init=random", "--epochs=1,2"], "give a single number to --epochs"),
        (["attention", "--init=random", "--rows=9"], "--rows=9 takes numbers of these rows: 1 win"),
        (["attention", "--init=random", "--rows=a"], "--rows=a takes numbers of these rows"),
        (["attention", "--init=random", "--config.epochs=2"], "leave out --config.epochs=2"),
    ],
)
def test_a_mistake_ends_in_one_sentence(trainer, capsys, arguments, message):
    assert main([*arguments, f"--workdir={WORKDIR}", "--peak-tflops=1"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert not trainer.ran


@pytest.mark.parametrize("arguments", [["--checkpoint=mae"], ["--checkpoint=A=/a"], ["nothing"]])
def test_a_wrong_flag_is_named(capsys, arguments):
    assert main(["initialisations", *arguments, f"--workdir={WORKDIR}"]) == 2
    said = capsys.readouterr().err
    assert arguments[0].removeprefix("--checkpoint=") in said
    assert said.count("\n") == 1
