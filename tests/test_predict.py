"""Pictures in, drawings and detections out: those of an evaluation, and without the data set."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

from jaxdet import predict
from jaxdet.config.mask_rcnn import check
from jaxdet.data.dataset import Category
from jaxdet.errors import UserError
from jaxdet.inference.detector import load, load_converted
from jaxdet.models.paths import path_name
from jaxdet.predict import find_images, main, read_categories
from jaxdet.training.checkpoint import Checkpoints
from tests.tiny import get_config


@pytest.fixture(scope="module")
def evaluated(finished):
    """The validation images of the tiny run, and what its evaluation found on them, per image."""
    experiment, _ = finished
    results = json.loads((experiment.workdir / "detections.json").read_text())
    dataset = experiment.val_set
    found = [[r for r in results if r["image_id"] == image_id] for image_id in dataset.image_ids]
    assert sum(map(len, found)) > len(found)
    return [dataset[index].image for index in range(len(dataset))], found


@pytest.fixture(scope="module")
def detector(finished):
    return load(finished[0].workdir, batch=8)


@pytest.fixture(scope="module")
def photo(evaluated):
    return Image.fromarray(evaluated[0][0])


@pytest.fixture
def files(evaluated, tmp_path):
    """The validation images as files without loss."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, image in enumerate(evaluated[0]):
        Image.fromarray(image).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def compiled(detector, monkeypatch):
    """Commands about the tiny run take the detector that is compiled already."""
    monkeypatch.setattr(predict, "load", lambda workdir, batch: detector)


def without(results, *words):
    return [{word: r[word] for word in r if word not in words} for r in results]


def test_the_command_finds_what_the_evaluation_found(finished, evaluated, files, capsys):
    """On files, from the checkpoint alone; written so that pycocotools reads it."""
    out = files.parent / "seen"
    assert main([f"--workdir={finished[0].workdir}", f"--out={out}", str(files)]) == 0
    written = json.loads((out / "detections.json").read_text())
    images = json.loads((out / "images.json").read_text())["images"]
    assert [image["file_name"] for image in images] == [str(p) for p in sorted(files.iterdir())]
    for image, expected in zip(images, evaluated[1], strict=True):
        own = [result for result in written if result["image_id"] == image["id"]]
        assert all(result["file_name"] == image["file_name"] for result in own)
        assert without(own, "image_id", "file_name", "category_name") == without(
            expected, "image_id"
        )
        with Image.open(out / image["drawing"]) as drawing:
            assert min(drawing.size) >= 480
    names = {result["category_id"]: result["category_name"] for result in written}
    assert names.items() <= {1: "disc", 2: "box", 3: "triangle", 4: "star"}.items()
    assert len(COCO(out / "images.json").loadRes(str(out / "detections.json")).anns) == len(written)
    drawn = sum(result["score"] >= 0.5 for result in written)
    assert (
        f"{len(written)} detections on 9 of 9 pictures, {drawn} of them drawn (score at least 0.5)"
        in capsys.readouterr().out
    )


def test_arrays_files_and_images_of_any_kind_are_pictures(detector, evaluated, files):
    array = evaluated[0][0]
    path = files / "0.png"
    kinds = [array, path, str(path), Image.fromarray(array)]
    for prediction in detector.predict(kinds):
        assert without(prediction.results, "image_id") == without(evaluated[1][0], "image_id")
        np.testing.assert_array_equal(prediction.image, array)


def test_a_prediction_speaks_in_arrays_of_its_picture(detector, photo):
    found = detector.predict(photo)
    count = len(found.results)
    assert found.boxes.shape == (count, 4)
    assert found.masks.shape == (count, photo.height, photo.width)
    assert found.masks.dtype == bool
    assert (np.diff(found.scores) <= 0).all()
    x, y, width, height = found.results[0]["bbox"]
    np.testing.assert_allclose(found.boxes[0], [x, y, x + width, y + height])
    np.testing.assert_array_equal(found.masks[0], rle.decode(found.results[0]["segmentation"]))
    ids = [detector.categories[label].id for label in found.labels]
    assert ids == [result["category_id"] for result in found.results]
    assert found.names == [detector.categories[label].name for label in found.labels]

    middle = float(np.median(found.scores))
    np.testing.assert_array_equal(
        found.above(middle).scores, [score for score in found.scores if score >= middle]
    )
    nothing = found.above(1.1)
    assert nothing.boxes.shape == (0, 4)
    assert nothing.masks.shape == (0, photo.height, photo.width)
    assert nothing.names == []


def test_a_prediction_draws_what_is_above_the_score(detector, photo):
    found = detector.predict(photo)
    plain = np.asarray(found.draw(1.1))
    drawn = np.asarray(found.draw(0.0))
    assert drawn.shape == plain.shape
    assert (drawn != plain).any()
    assert found._repr_png_().startswith(b"\x89PNG")


def test_pictures_of_any_size_and_mode_are_read(detector, photo, tmp_path):
    """Grey, transparent, with a palette, sixteen bits, much too large, a single row."""
    photo.convert("L").save(tmp_path / "grey.jpg")
    photo.convert("RGBA").save(tmp_path / "transparent.png")
    photo.convert("P").save(tmp_path / "palette.gif")
    Image.fromarray(np.full((40, 30), 40_000, np.uint16)).save(tmp_path / "sixteen.png")
    photo.resize((900, 700)).save(tmp_path / "large.webp")
    photo.resize((50, 1)).save(tmp_path / "row.bmp")
    paths = sorted(tmp_path.iterdir())
    for path, found in zip(paths, detector.predict(paths), strict=True):
        with Image.open(path) as image:
            assert found.image.shape == (image.height, image.width, 3)
        height, width = found.image.shape[:2]
        assert (found.boxes >= 0).all()
        assert (found.boxes <= [width, height, width, height]).all()
        assert found.draw(0.0).width >= width


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_the_camera_was_held(detector, photo, orientation, tmp_path):
    """Detections lie on the upright picture: those of the same pixels without the note."""
    turns = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    stored = photo
    for turn in turns[orientation]:
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "stored.png", exif=exif)
    turned, upright = detector.predict([tmp_path / "stored.png", photo])
    np.testing.assert_array_equal(turned.image, upright.image)
    assert without(turned.results, "image_id") == without(upright.results, "image_id")


def test_damaged_pictures_are_named_and_left_out(finished, compiled, files, capsys):
    whole = (files / "0.png").read_bytes()
    (files / "cut.png").write_bytes(whole[: len(whole) // 2])
    (files / "text.jpg").write_text("no image")
    (files / "notes.txt").write_text("not even by its name")
    out = files.parent / "seen"
    assert main([f"--workdir={finished[0].workdir}", f"--out={out}", str(files)]) == 1
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("left out: ")]
    assert len(lines) == 2
    assert str(files / "cut.png") in lines[0]
    assert str(files / "text.jpg") in lines[1]
    assert "9 of 11 pictures" in captured.out
    assert len(json.loads((out / "images.json").read_text())["images"]) == 9


def test_drawings_of_pictures_of_one_name_do_not_replace_each_other(
    finished, compiled, photo, tmp_path
):
    for name in ("a/1.png", "b/1.png", "b/1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        photo.save(tmp_path / name)
    out = tmp_path / "out"
    out.mkdir()
    (out / "1_2.PNG").write_text("somebody else's")
    workdir = f"--workdir={finished[0].workdir}"
    arguments = [*(str(tmp_path / name / "1.*") for name in "ab"), str(tmp_path / "a")]
    for _ in range(2):  # the second time in place of the first one's
        assert main([workdir, f"--out={out}", *arguments]) == 0
        images = json.loads((out / "images.json").read_text())["images"]
        assert [image["drawing"] for image in images] == ["1.png", "1_3.png", "1_4.png"]
        assert {path.name for path in out.glob("*.png")} == {image["drawing"] for image in images}
    assert (out / "1_2.PNG").read_text() == "somebody else's"


def test_drawings_do_not_go_through_links_into_the_pictures(finished, compiled, photo, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "links").mkdir()
    photo.save(tmp_path / "photos" / "1.png")
    (tmp_path / "links" / "1.png").symlink_to(tmp_path / "photos" / "1.png")
    before = (tmp_path / "photos" / "1.png").read_bytes()
    links = str(tmp_path / "links")
    assert main([f"--workdir={finished[0].workdir}", f"--out={links}", links]) == 2
    assert (tmp_path / "photos" / "1.png").read_bytes() == before


def test_a_folder_s_pictures_are_found_by_their_names(tmp_path):
    for name in ("b.JPG", "a.png", "c.txt"):
        (tmp_path / name).write_bytes(b"")
    expected = [tmp_path / "a.png", tmp_path / "b.JPG"]
    assert find_images([str(tmp_path)]) == expected
    assert find_images([str(tmp_path / "c.txt"), str(tmp_path)]) == [
        tmp_path / "c.txt",
        *expected,
    ]
    assert find_images([str(tmp_path / "[ab].*"), str(expected[0])]) == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--workdir=/nowhere", "{files}"], "/nowhere/checkpoints does not exist; train first"),
        (["--workdir={run}", "/nowhere.jpg"], "/nowhere.jpg is no picture and no folder"),
        (["--workdir={run}", "--out={files}", "{files}"], "holds the pictures themselves"),
        (["--workdir={run}", "--out={run}", "{files}"], "holds files of another command"),
        (["--workdir={run}", "--batch=0", "{files}"], "a batch of 0 pictures cannot be"),
        (["--workdir={run}", "{run}/result.json"], "none of 1 pictures can be read"),
        (["--workdir={run}", "--config=tests/tiny.py", "{files}"], "leave out --config"),
        (["--workdir={run}"], "no picture is given"),
        (["{files}"], "give --workdir of a run, or --init and --config"),
        (["--init=/nowhere.npz", "{files}"], "give --workdir of a run, or --init and --config"),
    ],
)
def test_a_mistake_ends_in_one_sentence(arguments, expected, finished, files, capsys):
    given = [text.format(run=finished[0].workdir, files=files) for text in arguments]
    if not any(text.startswith("--out") for text in given):
        given.append(f"--out={files.parent / 'seen'}")
    assert main(given) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert expected in last


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.zeros((4, 4), np.uint8), r"uint8 \[4, 4\] must be uint8 \[height"),
        (np.zeros((4, 4, 3)), r"float64 \[4, 4, 3\] must be"),
        (np.zeros((0, 4, 3), np.uint8), "must be uint8"),
        (None, "a NoneType is no image"),
    ],
)
def test_what_is_no_picture_is_refused(detector, image, expected):
    with pytest.raises(UserError, match=expected):
        detector.predict(image)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda meta: meta["config"]["model"].update(halo=1), "halo"),
        (lambda meta: meta["config"]["model"]["vit"].pop("width"), r"vit\.width was None"),
        (lambda meta: meta["config"].update(image_size="wide"), "image_size"),
        (lambda meta: meta.pop("categories"), "categories"),
        (lambda meta: meta["category_ids"].pop(), "differ in length"),
    ],
)
def test_a_checkpoint_of_another_version_is_refused(finished, monkeypatch, change, expected):
    stored = Checkpoints.meta

    def changed(self, step):
        meta = stored(self, step)
        change(meta)
        return meta

    monkeypatch.setattr(Checkpoints, "meta", changed)
    with pytest.raises(UserError, match=f"another version of jaxdet .*{expected}.*; use that"):
        load(finished[0].workdir)


def test_weights_trained_with_cudnn_s_attention_run_without_a_gpu(finished, monkeypatch):
    stored = Checkpoints.meta

    def changed(self, step):
        meta = stored(self, step)
        meta["config"]["model"]["vit"]["attention"] = "cudnn"
        return meta

    monkeypatch.setattr(Checkpoints, "meta", changed)
    assert load(finished[0].workdir).config.model.vit.attention == "xla"


def test_a_converted_detector_needs_no_run(detector, photo, tmp_path):
    config = get_config()
    config.initialisation = "supervised"
    check(config)
    arrays = {
        path_name(path): np.asarray(leaf)
        for tree in (detector.params, detector.stats)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    init = tmp_path / "detector.npz"
    np.savez(init, **arrays)
    expected = detector.predict(photo)
    numbered = load_converted(init, config, batch=8)
    assert [category.name for category in numbered.categories][-1] == "class 4"
    assert numbered.predict(photo).results == expected.results

    listed = [Category(9, "nine"), Category(3, "three"), Category(5, "five"), Category(7, "seven")]
    names = tmp_path / "categories.json"
    names.write_text(json.dumps({"categories": [one._asdict() for one in listed]}))
    categories = read_categories(names)
    named = load_converted(init, config, categories, batch=8)
    assert [category.id for category in named.categories] == [3, 5, 7, 9]
    with pytest.raises(UserError, match="knows 4 classes and 3 categories are given"):
        load_converted(init, config, categories[:3])
    np.savez(init, **{"backbone.pos_embed": arrays["backbone.pos_embed"]})
    with pytest.raises(UserError, match="holds no whole detector"):
        load_converted(init, config)


TWICE = '{"categories": [{"id": 1, "name": "one"}, {"id": 1, "name": "two"}]}'


@pytest.mark.parametrize("content", ["", "[]", '{"categories": []}', '{"categories": [1]}', TWICE])
def test_a_file_without_categories_is_refused(content, tmp_path):
    path = tmp_path / "categories.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"categories\.json lists no categories"):
        read_categories(path)
