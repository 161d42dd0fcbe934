"""The rows of ViTDet's model zoo: files of their layout fit the configs that the docs name."""

from __future__ import annotations

import re

import numpy as np
import pytest

from checkpoints_convert.cli import main as convert_main
from checkpoints_convert.conversion import convert
from checkpoints_convert.conversion_plan import Options
from checkpoints_convert.reading import read
from jaxdet.config.files import load_config
from jaxdet.errors import UserError
from jaxdet.models.build import StatelessModel, build_detector
from jaxdet.weights.file import read_weights
from jaxdet.weights.fit import check_fit
from jaxdet.weights.load import load_detector
from tests.conftest import REPOSITORY

CLASSES = {"COCO": 80, "LVIS": 1203}
ROW = re.compile(
    r"\| (?P<data>COCO|LVIS), (?P<head>Mask R-CNN|Cascade), ViT-(?P<size>[BLH]) "
    r"\| `model_final_[0-9a-f]{6}\.pkl` \| `(?P<config>\w+)` \| \d\d\.\d \| \d\d\.\d \|"
)
ROWS = [match.groupdict() for match in ROW.finditer((REPOSITORY / "docs/weights.md").read_text())]
TINY = {"Mask R-CNN": "maskrcnn_vitdet_tiny", "Cascade": "maskrcnn_cascade_vitdet_tiny"}


def with_classes(state, classes: int):
    """A tiny detector's tensors with more classes: those it has, again and again."""
    found = {}
    for name, value in state.items():
        if "cls_score" in name:
            rows = np.resize(value[:-1], (classes, *value.shape[1:]))
            value = np.concatenate([rows, value[-1:]])
        elif "mask_head.predictor" in name or ("bbox_pred" in name and len(value) > 4):
            by_class = len(value) // 4
            value = np.resize(value, (classes * by_class, *value.shape[1:]))
        found[name] = value
    return found


@pytest.fixture(scope="module")
def converted(shared, tmp_path_factory):
    """Converts the tiny detector of a kind of head with so many classes, once."""
    torch = pytest.importorskip("torch")
    folder, made = tmp_path_factory.mktemp("zoo"), {}

    def make(head: str, classes: int):
        if (head, classes) not in made:
            file = shared / "reference" / f"{TINY[head]}.pth"
            stored = torch.load(file, weights_only=True)["model"]
            state = with_classes({name: value.numpy() for name, value in stored.items()}, classes)
            source = folder / f"{TINY[head]}_{classes}.pth"
            torch.save({name: torch.from_numpy(value) for name, value in state.items()}, source)
            made[head, classes] = source.with_suffix(".npz")
            assert convert_main([str(source), str(made[head, classes])]) == 0
        return made[head, classes]

    return make


def tiny(config, init):
    """A row's config with the sizes of the tiny detectors."""
    config.model.vit.update(width=32, depth=4, heads=2, pretrain_grid=4, window=3)
    config.model.vit.update(global_blocks=(1, 3), out_indices=(3,))
    config.image_size, config.init = 128, str(init)
    config.model.pyramid.channels = 16
    config.model.heads.update(box_conv_dim=16, box_fc_dim=32, mask_conv_dim=16)
    return config


def test_the_docs_have_all_rows():
    assert len({(row["data"], row["head"], row["size"]) for row in ROWS}) == len(ROWS) == 12


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["config"])
def test_a_row_of_the_zoo_fits_its_config(converted, row):
    init = converted(row["head"], CLASSES[row["data"]])
    check_fit(read_weights(init), tiny(load_config(row["config"]), init))


@pytest.mark.parametrize("head", TINY)
@pytest.mark.parametrize("data", CLASSES)
def test_every_array_of_a_detector_has_its_place(converted, head, data):
    init = converted(head, CLASSES[data])
    row = next(row for row in ROWS if (row["head"], row["data"]) == (head, data))
    config = tiny(load_config(row["config"]), init)
    stateless = StatelessModel(lambda rngs: build_detector(config, CLASSES[data], rngs))
    params, _, report = load_detector(config, *stateless.abstract)
    assert report["pixel_mean"] == [123.675, 116.28, 103.53]
    names = {"0", "1", "2"} if head == "Cascade" else {"convs", "fc", "logits", "deltas"}
    assert {str(name) for name in params["box_head"]} == names


def test_a_cascade_and_a_single_stage_are_told_apart(converted):
    for head, name in (("Cascade", "vitdet_b_mae"), ("Mask R-CNN", "cascade_b")):
        init = converted(head, CLASSES["COCO"])
        with pytest.raises(UserError, match=r"made for model\.heads\.class_agnostic_boxes"):
            check_fit(read_weights(init), tiny(load_config(name), init))


def test_pixels_in_the_file_are_those_of_the_report(shared, save_torch):
    """As of a detector trained on RGB with the mean of BGR."""
    torch = pytest.importorskip("torch")
    stored = torch.load(shared / "reference" / f"{TINY['Mask R-CNN']}.pth", weights_only=True)
    state = {name: value.numpy() for name, value in stored["model"].items()}
    mean, std = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)
    pixels = {"pixel_mean": mean, "pixel_std": std}
    given = {name: np.float32(value)[:, None, None] for name, value in pixels.items()}
    report = convert(read(save_torch(state | given)), Options()).report
    np.testing.assert_allclose(report["pixel_mean"], mean, rtol=1e-6)
    np.testing.assert_allclose(report["pixel_std"], std, rtol=1e-6)
    assert report["pixels_from"] == "the pixel_mean and pixel_std in the file"
    assert convert(read(save_torch(state)), Options()).report["pixel_mean"][0] == 123.675
    with pytest.raises(UserError, match="pixel_mean must hold a finite number for each of red"):
        convert(read(save_torch(state | given | {"pixel_mean": np.ones(4, np.float32)})), Options())


def test_the_pickle_is_the_same_as_the_torch_file(shared, tmp_path):
    pytest.importorskip("torch")
    arrays = []
    for suffix in ("pkl", "pth"):
        out = tmp_path / f"{suffix}.npz"
        source = shared / "reference" / f"{TINY['Cascade']}.{suffix}"
        assert convert_main([str(source), str(out)]) == 0
        arrays.append(read_weights(out).arrays)
    assert arrays[0].keys() == arrays[1].keys()
    for name in arrays[0]:
        np.testing.assert_array_equal(arrays[0][name], arrays[1][name])
