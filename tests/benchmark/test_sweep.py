"""The sweep: a whole search as a command; resumed, diverged, and what it says."""

from __future__ import annotations

import json

import pytest

from jaxdet.benchmark.sweep import main
from jaxdet.benchmark.trials.cost import Data
from jaxdet.benchmark.trials.search import DROP_PATH, FINAL, GRID

TINY = [
    "--config=tests/tiny.py",
    "--lrs=1e-3,2e-3,4e-3",
    "--weight-decays=0.05",
    "--epochs-short=1",
    "--drop-paths=0,0.1",
    "--epochs-drop-path=1",
    "--epochs-final=1,2",
    "--peak-tflops=1",
]


def sweep(tmp_path, *more: str) -> int:
    return main([*TINY, f"--workdir={tmp_path / 'sweep'}", *more])


def score(config) -> float:
    """Best at the smallest lr, then at half of it; better with drop path and with length."""
    lr, drop_path = config.optim.lr, config.model.vit.drop_path
    return 0.3 - 20 * abs(lr - 0.5e-3) + drop_path + 0.01 * config.epochs


ALL = [
    "lr1.0e-03_wd0.05_dp0_1ep",
    "lr2.0e-03_wd0.05_dp0_1ep",
    "lr4.0e-03_wd0.05_dp0_1ep",
    "lr5.0e-04_wd0.05_dp0_1ep",
    "lr2.5e-04_wd0.05_dp0_1ep",
    "lr5.0e-04_wd0.05_dp0.1_1ep",
    "lr5.0e-04_wd0.05_dp0.1_2ep",
]


def test_a_whole_sweep(tmp_path, trainer, capsys):
    trainer.score = score
    assert sweep(tmp_path) == 0
    assert trainer.ran == ALL
    said = capsys.readouterr().out
    assert said.index("device-hours") < said.index("running, see")
    assert "chosen: lr 0.0005, weight_decay 0.05, drop_path 0.1" in said
    assert "| 1 | 41.0 | - | - | 20.5 | - | - |\n| 2 | 42.0 |" in said

    summary = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert summary["initialisation"] == "random"
    assert summary["chosen"] == {"lr": 0.0005, "weight_decay": 0.05, "drop_path": 0.1}
    assert {stage: len(trials) for stage, trials in summary["stages"].items()} == {
        GRID: 5,
        DROP_PATH: 2,
        FINAL: 2,
    }
    assert summary["stages"][FINAL][ALL[-1]]["box_ap"] == pytest.approx(0.42)


@pytest.mark.parametrize("stop", [0, 3, 5, len(ALL) - 1])
def test_the_same_command_resumes(tmp_path, trainer, capsys, stop):
    trainer.score = lambda config: "interrupted" if len(trainer.ran) == stop + 1 else score(config)
    assert sweep(tmp_path) == 130
    assert "the same command resumes" in capsys.readouterr().err
    assert trainer.ran == ALL[: stop + 1]
    assert sweep(tmp_path) == 0
    assert trainer.ran == ALL[: stop + 1] + ALL[stop:]
    assert sweep(tmp_path) == 0
    assert trainer.ran == ALL[: stop + 1] + ALL[stop:]
    assert f"{len(ALL)} trial(s) in " in capsys.readouterr().out


def test_what_the_grid_chose_is_known_before_drop_path_is(tmp_path, trainer, capsys):
    trainer.score = lambda config: (
        "interrupted" if config.model.vit.drop_path > 0 else score(config)
    )
    assert sweep(tmp_path) == 130
    trainer.score = score
    flags = [flag for flag in TINY if not flag.startswith(("--lrs", "--weight-decays"))]
    assert main([*flags, f"--from={tmp_path / 'sweep'}", f"--workdir={tmp_path / 'large'}"]) == 0
    assert "chosen: lr 0.0005, weight_decay 0.05" in capsys.readouterr().out


def test_a_diverged_trial_is_kept_and_the_sweep_continues(tmp_path, trainer, capsys):
    trainer.score = lambda config: "diverged" if config.optim.lr > 3e-3 else score(config)
    assert sweep(tmp_path) == 0
    assert "lr4.0e-03_wd0.05_dp0_1ep: diverged" in capsys.readouterr().out
    summary = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    found = summary["stages"][GRID]["lr4.0e-03_wd0.05_dp0_1ep"]
    assert found["box_ap"] is None
    assert found["diverged"].startswith("training diverged: loss not finite")
    assert sweep(tmp_path) == 0
    assert trainer.ran == ALL


def test_another_failure_stops_the_sweep(tmp_path, trainer, capsys):
    trainer.score = lambda config: "failed" if config.epochs == 2.0 else score(config)
    assert sweep(tmp_path) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {ALL[-1]} failed (exit status 2: no space is left); its log")
    assert message.count("\n") == 1


def test_a_grid_that_diverged_everywhere_stops(tmp_path, trainer, capsys):
    trainer.score = lambda config: "diverged"
    assert sweep(tmp_path) == 2
    assert "all 3 trials diverged; try lower learning rates" in capsys.readouterr().err


def test_another_config_needs_another_folder(tmp_path, trainer, capsys):
    trainer.score = score
    assert sweep(tmp_path) == 0
    assert sweep(tmp_path, "--config.seed=1") == 2
    assert "config.seed was 0 and is now 1" in capsys.readouterr().err


def test_overrides_reach_every_trial(tmp_path, trainer):
    seen = []
    trainer.score = lambda config: seen.append((config.seed, config.data.flip)) or score(config)
    assert sweep(tmp_path, "--config.seed=7", "--noconfig.data.flip") == 0
    assert set(seen) == {(7, False)}


def test_the_final_runs_are_trained_with_several_seeds(tmp_path, trainer, capsys):
    seeds = []
    trainer.score = lambda config: (
        seeds.append(config.seed) or score(config) + 0.02 * (config.seed - 5)
    )
    own = f"--config={tmp_path / 'seed5.py'}"
    (tmp_path / "seed5.py").write_text(
        "from tests.tiny import get_config as tiny\n\n\n"
        "def get_config():\n    config = tiny()\n    config.seed = 5\n    return config\n"
    )
    flags = [*TINY[1:], own, f"--workdir={tmp_path / 'seeds'}", "--seeds=3"]
    assert main([*flags, "--dry-run"]) == 0
    plan = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[1:3] for row in plan if row[:1] == ["final"]] == [["2", "1"], ["3", "2"]]
    assert main(flags) == 0
    repeats = [f"{name}_repeat{i}" for name in ALL[-2:] for i in (1, 2)]
    assert trainer.ran == [*ALL[:-1], *repeats[:2], ALL[-1], *repeats[2:]]
    assert seeds == 6 * [5] + [6, 7, 5, 6, 7]
    assert "| 2 | 44.0 ± 2.0 (n 3) |" in capsys.readouterr().out
    assert main([*flags, "--config.seed=1"]) == 2
    assert "the trials differ in config.seed; leave out" in capsys.readouterr().err


def test_of_a_frozen_vit_drop_path_is_not_tuned(tmp_path, trainer):
    trainer.score = score
    flags = [flag for flag in TINY if not flag.startswith("--drop-paths")]
    assert main([*flags, f"--workdir={tmp_path}", "--config.optim.train=heads"]) == 0
    assert trainer.ran == [*ALL[:5], "lr5.0e-04_wd0.05_dp0_2ep"]


def test_a_dry_run_leaves_nothing(tmp_path, trainer, capsys):
    assert sweep(tmp_path, "--dry-run") == 0
    assert not trainer.ran
    assert not (tmp_path / "sweep").exists()
    said = capsys.readouterr().out
    assert "expected at a utilisation of 0.4 of 1 TFLOP/s a device (--peak-tflops)" in said


def test_the_plan_of_the_paper(tmp_path, capsys):
    flags = ["--init=mae", "--size=b", "--images-per-second=10", "--dry-run"]
    assert main([*flags, f"--workdir={tmp_path}"]) == 0
    said = capsys.readouterr().out
    rows = [line.split() for line in said.splitlines() if "25" in line or "in all" in line]
    # An epoch of 117,266 images at 10 a second is 3.257 hours.
    assert ["lr", "x", "weight", "decay", "9", "25", "733"] in rows
    assert ["in", "all", "15", "1,792"] in rows
    assert "10 images/s a device, as given" in said
    assert "up to 27 trial(s) of 25 epochs, 2,199 device-hours, beyond those above" in said
    assert "at most 3 time(s)" in said


def test_a_larger_model_takes_lr_and_weight_decay_from_a_sweep(tmp_path, trainer, capsys):
    trainer.score = score
    assert sweep(tmp_path) == 0
    large = tmp_path / "large"
    flags = [flag for flag in TINY if not flag.startswith(("--lrs", "--weight-decays"))]
    flags = [*flags, f"--from={tmp_path / 'sweep'}", f"--workdir={large}"]
    trainer.ran.clear()
    assert main(flags) == 0
    assert trainer.ran == [
        "lr5.0e-04_wd0.05_dp0_1ep",
        "lr5.0e-04_wd0.05_dp0.1_1ep",
        "lr5.0e-04_wd0.05_dp0.1_2ep",
    ]
    assert main([*flags, "--lrs=1e-3"]) == 2
    assert "leave out --lrs" in capsys.readouterr().err
    assert main([*flags, "--config=configs/own.py:l", "--init=my_mae", "--dry-run"]) == 2
    assert "sweep.json is a sweep of random; --from takes one of my_mae" in capsys.readouterr().err
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    assert main(flags) == 2
    assert (
        "sweep.json does not say which lr and weight decay were chosen" in capsys.readouterr().err
    )


@pytest.mark.parametrize("lr", ["NaN", "Infinity", "1" + 400 * "0", 100_000 * "["])
def test_a_hostile_sweep_to_take_values_from_is_named(tmp_path, trainer, capsys, lr):
    summary = f'{{"initialisation": "random", "chosen": {{"lr": {lr}, "weight_decay": 0.1}}}}'
    (tmp_path / "sweep.json").write_text(summary)
    flags = ["--init=random", f"--from={tmp_path}", f"--workdir={tmp_path / 'sweep'}"]
    assert main(flags) == 2
    assert "does not say which lr and weight decay were chosen" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--init names what to start from"),
        (["--init=mae"], "the weights to start mae from are not given: download mae_pretrain"),
        (["--init=mae", "--size=h"], "there is no config vith_mae; give --size=b or l"),
        (["--init=My"], "--init=My must be lowercase letters"),
        (["--init=my", "--size=x"], "there is no size 'x' of ViT"),
        (["--init=my", "--weights=/no.npz"], "config.init='/no.npz' is not a file; no published"),
        (["--init=mae", "--config=configs/shapes_tiny.py"], "which starts from random"),
        (["--init=my", "--config=configs/shapes_tiny.py"], "which starts from random"),
        (["--init=random", "--config.optim.lr=1"], "leave out --config.optim.lr=1"),
        (["--init=random", "--config.optm.lr=1"], "did you mean config.optim?"),
        (["--init=random", "--max-extensions=-1"], "--max-extensions must be at least 0"),
        (["--init=random", "--drop-paths=0,2"], "config.model.vit.drop_path=2.0"),
        (
            ["--init=random", "--config.optim.train=heads", "--drop-paths=0,0.1"],
            "--drop-paths has no effect where config.optim.train is 'heads'",
        ),
    ],
)
def test_a_mistake_ends_in_one_sentence(tmp_path, trainer, capsys, flags, message):
    assert main([*flags, f"--workdir={tmp_path / 'sweep'}", "--peak-tflops=1"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert not trainer.ran
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(("images", "expected"), [(117_266, "50.1 [1]"), (500, "-")])
def test_only_on_coco_are_final_runs_compared(
    tmp_path, trainer, capsys, monkeypatch, images, expected
):
    data = Data(images, 80, "counted")
    monkeypatch.setattr("jaxdet.benchmark.sweep.data_of", lambda config: data)
    (tmp_path / "mae.npz").touch()
    flags = ["--init=mae", f"--weights={tmp_path / 'mae.npz'}", "--peak-tflops=1", "--lrs=8e-5"]
    flags += ["--weight-decays=.1", "--drop-paths=0.1", f"--workdir={tmp_path / 'sweep'}"]
    assert main(flags) == 0
    assert f"| 50 | 50.0 | {expected} |" in capsys.readouterr().out


def test_a_workdir_that_cannot_be_made_is_named(tmp_path, trainer, capsys):
    (tmp_path / "sweep").touch()
    assert sweep(tmp_path, "--drop-paths=0") == 2
    assert "sweep cannot be made" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--fly", "--lrs=a", "--lrs=-1", "--utilisation=2", "--cpus=0"])
def test_a_wrong_flag_is_named(tmp_path, capsys, flag):
    assert main(["--init=random", f"--workdir={tmp_path}", flag]) == 2
    said = capsys.readouterr().err
    assert flag.partition("=")[0] in said
    assert said.count("\n") == 1


def test_own_weights_enter_by_a_name_and_a_file(tmp_path, trainer):
    weights = tmp_path / "my.npz"
    weights.touch()
    seen = []
    trainer.score = lambda config: seen.append(config) or 0.5
    flags = ["--init=my_mae", f"--weights={weights}", "--lrs=8e-5", "--weight-decays=.1"]
    flags += ["--drop-paths=0.1", "--config.model.detector.pixel_mean=(1.,2.,3.)", "--data=/data"]
    assert main([*flags, f"--workdir={tmp_path / 'sweep'}", "--peak-tflops=1"]) == 0
    assert [config.epochs for config in seen] == [25, 50, 100]
    config = seen[0]
    assert config.initialisation == "my_mae"
    assert config.init == str(weights)
    assert config.data.root == "/data"
    assert config.model.detector.pixel_mean == (1.0, 2.0, 3.0)
    assert config.model.vit.depth == 12
    assert config.weights.file is None
