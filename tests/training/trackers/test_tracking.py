"""Trackers get what a run has for them, go on where it resumes, and cannot end it."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
from PIL import Image

from jaxdet.config.keys import DetectorConfig, PretrainingConfig
from jaxdet.config.schema import keys
from jaxdet.errors import UserError
from jaxdet.training.trackers import tracking
from jaxdet.training.trackers.tracker import Table
from jaxdet.training.trackers.tracking import CLASSES, Trackers
from tests.events import read_events

CONFIG = {"optim": {"lr": 0.5, "betas": [0.9, 0.999]}, "init": None}
APS = Table(["category", "bbox"], [["a|b, c", 0.5], ["d", None]])


class Library(ModuleType):
    """In place of a library: has the calls that are used, with their arguments, and no other."""

    def __init__(self, name):
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None, origin="made up")
        self.called = []
        self.broken = None

    def note(self, call, **arguments):
        if call == self.broken:
            raise ConnectionError("the server\nis gone " + "x" * 999)
        self.called.append((call, arguments))

    def of(self, call):
        return [arguments for name, arguments in self.called if name == call]


class Wandb(Library):
    """What is used of wandb 0.31."""

    def __init__(self):
        super().__init__("wandb")

    def init(self, *, project, name, id, resume, dir, config):
        self.note("init", project=project, name=name, id=id, resume=resume, dir=dir, config=config)
        return WandbRun(self, id or f"w{len(self.of('init'))}")

    def Image(self, path):  # noqa: N802
        return ("image", path)

    def Table(self, *, columns, data):  # noqa: N802
        return ("table", columns, data)


class WandbRun:
    """What is used of a run of W&B."""

    def __init__(self, library, run_id):
        self.library, self.id = library, run_id

    def define_metric(self, name, *, step_metric):
        self.library.note("define_metric", name=name, step_metric=step_metric)

    def log(self, data):
        self.library.note("log", data=data)

    def finish(self, *, exit_code):
        self.library.note("finish", exit_code=exit_code)


class Mlflow(Library):
    """What is used of mlflow 3.17."""

    def __init__(self):
        super().__init__("mlflow")

    def set_experiment(self, name):
        self.note("set_experiment", name=name)

    def start_run(self, *, run_id, run_name):
        self.note("start_run", run_id=run_id, run_name=run_name)
        run_id = run_id or f"m{len(self.of('start_run'))}"
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

    def log_params(self, params):
        self.note("log_params", params=params)

    def log_dict(self, dictionary, file):
        self.note("log_dict", dictionary=dictionary, file=file)

    def log_metrics(self, metrics, *, step):
        self.note("log_metrics", metrics=metrics, step=step)

    def log_artifact(self, path, folder):
        self.note("log_artifact", path=path, folder=folder)

    def log_text(self, text, file):
        self.note("log_text", text=text, file=file)

    def end_run(self, status):
        self.note("end_run", status=status)


@pytest.fixture
def libraries(monkeypatch):
    """Stand-ins for wandb and mlflow by name."""
    for name in ("WANDB_PROJECT", "WANDB_NAME", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)
    made = {"wandb": Wandb(), "mlflow": Mlflow()}
    for name, library in made.items():
        monkeypatch.setitem(sys.modules, name, library)
        monkeypatch.delitem(sys.modules, f"jaxdet.training.trackers.{name}", raising=False)
    yield made
    for name in made:  # they hold the stand-ins
        sys.modules.pop(f"jaxdet.training.trackers.{name}", None)


@pytest.fixture
def unharmed(capsys):
    """No tracker fails, as it would at a call that its stand-in does not have."""
    yield
    assert "failed" not in capsys.readouterr().err


def follow(workdir, names, start_step=0):
    """Two steps of a run, its pictures and its tables."""
    workdir.mkdir(exist_ok=True)
    picture = workdir / "detections.png"
    Image.new("RGB", (40, 30)).save(picture)
    with Trackers(names) as trackers:
        trackers.start(workdir, start_step, CONFIG)
        for step in (start_step + 1, start_step + 2):
            trackers.scalars(step, {"loss": 1 / step, "val/bbox/AP": math.nan})
        trackers.picture(step, "detections", picture)
        trackers.table(step, "per_category", APS)


def test_the_config_offers_those_that_there_are():
    for schema in (DetectorConfig, PretrainingConfig):
        assert keys(schema)["trackers"].choices == tuple(CLASSES)


@pytest.mark.usefixtures("unharmed")
def test_tensorboard_gets_config_curves_pictures_and_tables(tmp_path):
    follow(tmp_path / "run", ["tensorboard"])
    events = read_events(tmp_path / "run")
    values = {(e.step, v.tag): v for e in events for v in e.summary.value}
    (config,) = values[0, "config"].tensor.string_val
    assert json.loads(config)["optim"] == CONFIG["optim"]
    assert all(line.startswith(b"    ") for line in config.splitlines())
    assert values[2, "loss"].simple_value == 0.5
    image = values[2, "detections"].image
    assert (image.height, image.width) == (30, 40)
    assert image.encoded_image_string == (tmp_path / "run" / "detections.png").read_bytes()
    (table,) = values[2, "per_category"].tensor.string_val
    assert table == b"| category | bbox |\n| --- | --- |\n| a\\|b, c | 0.5 |\n| d |  |"

    follow(tmp_path / "run", ["tensorboard"], start_step=1)
    starts = [e.step for e in read_events(tmp_path / "run") if e.HasField("session_log")]
    assert starts == [0, 2]  # TensorBoard drops earlier events from this step on


@pytest.mark.usefixtures("unharmed")
def test_wandb_gets_them_and_a_resumed_run_goes_on(tmp_path, libraries):
    wandb, workdir = libraries["wandb"], tmp_path / "runs" / "mae"
    workdir.parent.mkdir()
    follow(workdir, ["wandb"])
    (begun,) = wandb.of("init")
    assert (begun["project"], begun["name"], begun["dir"]) == ("jaxdet", "runs/mae", str(workdir))
    assert begun["config"]["optim"] == CONFIG["optim"]
    assert "jax" in begun["config"]["versions"]
    assert wandb.of("define_metric") == [{"name": "*", "step_metric": "step"}]
    _, point, picture, table = [each["data"] for each in wandb.of("log")]
    assert (point["step"], point["loss"]) == (2, 0.5)
    assert picture == {"step": 2, "detections": ("image", str(workdir / "detections.png"))}
    assert table["per_category"] == ("table", ["category", "bbox"], [["a|b, c", 0.5], ["d", None]])
    follow(workdir, ["wandb"], start_step=1)
    follow(workdir, ["wandb"])
    assert [each["id"] for each in wandb.of("init")] == [None, "w1", None]
    assert json.loads((workdir / "trackers.json").read_text()) == {"wandb": "w3"}
    assert {each["resume"] for each in wandb.of("init")} == {"allow"}
    assert wandb.of("finish") == [{"exit_code": 0}] * 3


@pytest.mark.usefixtures("unharmed")
def test_mlflow_gets_them_and_a_resumed_run_goes_on(tmp_path, libraries):
    mlflow, workdir = libraries["mlflow"], tmp_path / "mae"
    follow(workdir, ["mlflow"])
    assert mlflow.of("set_experiment") == [{"name": "jaxdet"}]
    (params,) = (each["params"] for each in mlflow.of("log_params"))
    assert params["optim.lr"] == 0.5
    assert params["optim.betas"] == [0.9, 0.999]
    assert "versions.jax" in params
    assert mlflow.of("log_dict")[0]["file"] == "config.json"
    assert [(each["step"], each["metrics"]["loss"]) for each in mlflow.of("log_metrics")] == [
        (1, 1.0),
        (2, 0.5),
    ]
    (picture,) = mlflow.of("log_artifact")
    assert picture == {"path": str(workdir / "detections.png"), "folder": "step_2"}
    (table,) = mlflow.of("log_text")
    assert table["file"] == "step_2/per_category.csv"
    rows = list(csv.reader(io.StringIO(table["text"])))
    assert rows == [["category", "bbox"], ["a|b, c", "0.5"], ["d", ""]]
    follow(workdir, ["mlflow"], start_step=1)
    assert [each["run_id"] for each in mlflow.of("start_run")] == [None, "m1"]
    assert len(mlflow.of("log_params")) == 1, "MLflow lets no parameter change"
    assert mlflow.of("end_run") == [{"status": "FINISHED"}] * 2


@pytest.mark.usefixtures("unharmed")
def test_their_own_variables_go_first(tmp_path, libraries, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "detection")
    monkeypatch.setenv("WANDB_NAME", "mine")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "detection")
    follow(tmp_path, ["wandb", "mlflow"])
    (begun,) = libraries["wandb"].of("init")
    assert (begun["project"], begun["name"]) == ("detection", "mine")
    assert libraries["mlflow"].of("set_experiment") == []


@pytest.mark.parametrize("broken", ["init", "define_metric", "log", "finish"])
def test_one_that_fails_is_a_line_and_ends_neither_the_run_nor_the_others(
    tmp_path, libraries, capsys, broken
):
    libraries["wandb"].broken = broken
    follow(tmp_path, ["wandb", "tensorboard", "mlflow"])
    said = capsys.readouterr().err
    assert said.startswith("note: wandb failed (ConnectionError: the server is gone xxx")
    assert said.endswith("); the run goes on without it, and metrics.jsonl has all curves\n")
    assert len(said) < 400
    assert said.count("\n") == 1
    assert len(libraries["mlflow"].of("log_metrics")) == 2
    tags = [value.tag for event in read_events(tmp_path) for value in event.summary.value]
    assert tags.count("loss") == 2


def test_what_cannot_be_continued_now_is_later(tmp_path, libraries):
    follow(tmp_path, ["mlflow"])
    libraries["mlflow"].broken = "start_run"
    follow(tmp_path, ["mlflow"], start_step=1)
    libraries["mlflow"].broken = None
    follow(tmp_path, ["mlflow"], start_step=1)
    assert libraries["mlflow"].of("start_run")[-1]["run_id"] == "m1"


def test_a_run_that_ends_in_an_error_is_marked(tmp_path, libraries):
    def diverge():
        with Trackers(["wandb", "mlflow"]) as trackers:
            trackers.start(tmp_path, 0, CONFIG)
            raise UserError("diverged")

    with pytest.raises(UserError, match="diverged"):
        diverge()
    assert libraries["wandb"].of("finish") == [{"exit_code": 1}]
    assert libraries["mlflow"].of("end_run") == [{"status": "FAILED"}]


def test_those_that_are_not_started_do_nothing(tmp_path, libraries):
    with Trackers(["tensorboard", "wandb", "mlflow"]) as trackers:
        trackers.scalars(1, {"loss": 1.0})
    assert libraries["wandb"].called == libraries["mlflow"].called == []


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_names_its_extra(name, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", {}.get)
    with pytest.raises(UserError, match=rf"has '{name}', .* pip install 'jaxdet\[{name}\]'"):
        Trackers(["tensorboard", name])
    monkeypatch.undo()
    (tmp_path / name).mkdir()  # such a folder W&B leaves where it ran, and Python takes for one
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(UserError, match="is not installed"):
        Trackers([name])


@pytest.mark.parametrize("content", [b"[1]", b"{", b'{"wandb": 3}', b"\xff"])
def test_a_broken_file_of_ids_begins_new_runs(tmp_path, libraries, content):
    (tmp_path / "trackers.json").write_bytes(content)
    follow(tmp_path, ["wandb"], start_step=1)
    assert libraries["wandb"].of("init")[0]["id"] is None


@pytest.mark.usefixtures("unharmed")
def test_the_real_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for start_step in (0, 1):
        follow(tmp_path, ["wandb"], start_step)
    run_id = json.loads((tmp_path / "trackers.json").read_text())["wandb"]
    assert len(list(tmp_path.glob(f"wandb/offline-run-*/run-{run_id}.wandb"))) == 2


@pytest.mark.usefixtures("unharmed")
def test_the_real_mlflow_in_a_folder(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    for start_step in (0, 1):
        follow(tmp_path, ["mlflow"], start_step)
    run_id = json.loads((tmp_path / "trackers.json").read_text())["mlflow"]
    client = mlflow.MlflowClient()
    assert client.get_run(run_id).info.status == "FINISHED"
    assert [each.step for each in client.get_metric_history(run_id, "loss")] == [1, 2, 2, 3]
    assert client.get_run(run_id).data.params["optim.lr"] == "0.5"
