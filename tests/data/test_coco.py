"""COCO folders, good ones and every mess: what is an error, what is skipped, what comes out."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from jaxdet.data.coco import CocoDataset
from jaxdet.data.coco_files import find_coco
from jaxdet.data.lsj import LargeScaleJitter
from jaxdet.data.transform_objects import transform_objects
from jaxdet.errors import UserError

HEIGHT, WIDTH = 20, 30
SQUARE = [2, 3, 12, 3, 12, 13, 2, 13]


def annotation(number: int, **changes) -> dict:
    values = {
        "id": number,
        "image_id": 1,
        "category_id": 7,
        "bbox": [2, 3, 10, 10],
        "segmentation": [SQUARE],
        "area": 100,
        "iscrowd": 0,
    }
    return {key: value for key, value in (values | changes).items() if value is not ...}


def document(*annotations: dict, images: int = 2) -> dict:
    return {
        "images": [
            {"id": number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH}
            for number in range(1, images + 1)
        ],
        "annotations": list(annotations),
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 7, "name": "train"}],
    }


def write(root: Path, content) -> tuple[Path, Path]:
    """A data folder with one grey image per entry; `content` may be any JSON value or text."""
    images = root / "images"
    images.mkdir(exist_ok=True)
    for number in (1, 2):
        Image.new("RGB", (WIDTH, HEIGHT), (number, 0, 0)).save(images / f"{number}.png")
    file = root / "instances.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file, images


def rle(mask: np.ndarray) -> dict:
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode()}


@pytest.fixture
def square_mask():
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[3:13, 2:12] = True
    return mask


@pytest.fixture(scope="module")
def real(shared):
    return CocoDataset(*find_coco(shared / "data" / "coco_train128", "train"))


class TestRealData:
    def test_counts(self, real):
        assert len(real) == len(real.image_ids) == 128
        assert len(real.categories) == 80
        assert [category.id for category in real.categories] == sorted(
            category.id for category in real.categories
        )
        assert real.categories[-1] == (90, "toothbrush")
        report = real.report
        assert (report.images, report.objects, report.crowds) == (128, 929, 10)
        assert report.images_with_objects == sum(real.has_objects(i) for i in range(128)) == 126
        assert report.skipped == {}
        assert "128 images" in real.summary()
        assert "skipped: nothing" in real.summary()
        assert "\n" not in real.summary()

    def test_examples_are_what_the_file_says(self, real, shared):
        api = COCO(str(shared / "data" / "coco_train128" / "instances.json"))
        label_of = {category.id: label for label, category in enumerate(real.categories)}
        for index in range(0, 128, 5):
            example = real[index]
            annotations = api.loadAnns(api.getAnnIds([example.image_id], iscrowd=False))
            listed = api.imgs[example.image_id]
            assert example.image.shape == (listed["height"], listed["width"], 3)
            assert example.image.dtype == np.uint8
            xywh = np.array([a["bbox"] for a in annotations]).reshape(-1, 4)
            np.testing.assert_allclose(example.boxes[:, :2], xywh[:, :2], atol=1e-4)
            np.testing.assert_allclose(example.boxes[:, 2:], xywh[:, :2] + xywh[:, 2:], atol=1e-3)
            assert example.labels.tolist() == [label_of[a["category_id"]] for a in annotations]
            for polygons, source in zip(example.masks, annotations, strict=True):
                assert len(polygons) == len(source["segmentation"])
                for points, flat in zip(polygons, source["segmentation"], strict=True):
                    assert points.dtype == np.float64
                    np.testing.assert_allclose(points.ravel(), flat, atol=1e-4)

    def test_ground_truth_is_the_file_itself(self, real, shared):
        file = shared / "data" / "coco_train128" / "instances.json"
        assert real.ground_truth() == json.loads(file.read_bytes())

    def test_every_image_has_three_channels(self, real):
        is_grey = []
        for index in range(128):
            pixels = real[index].image
            assert pixels.shape[2] == 3
            is_grey.append((pixels[..., 0] == pixels[..., 1]).all())
        assert any(is_grey)


class TestFinding:
    def test_flat_folder(self, tmp_path):
        expected = write(tmp_path, document())
        assert find_coco(tmp_path, "train") == expected
        assert find_coco(tmp_path, "val") == expected

    @pytest.mark.parametrize("split", ["train", "val"])
    def test_as_coco_unpacks(self, tmp_path, split):
        (tmp_path / "annotations").mkdir()
        for part in ("train", "val"):
            (tmp_path / "annotations" / f"instances_{part}2017.json").write_text("{}")
            (tmp_path / f"{part}2017").mkdir()
        assert find_coco(tmp_path, split) == (
            tmp_path / "annotations" / f"instances_{split}2017.json",
            tmp_path / f"{split}2017",
        )

    def test_paths_given(self, tmp_path):
        paths = tmp_path / "a.json", tmp_path / "b"
        assert find_coco(None, "val", *paths) == paths
        assert find_coco("nowhere", "val", *map(str, paths)) == paths
        with pytest.raises(UserError, match=r"set both config\.data\.val_annotations"):
            find_coco(tmp_path, "val", annotations=paths[0])

    def test_missing_root(self, tmp_path):
        with pytest.raises(UserError, match="no such folder"):
            find_coco(tmp_path / "coco", "train")
        with pytest.raises(UserError, match="no folder is given for the train data"):
            find_coco(None, "train")

    def test_nothing_found_names_the_places(self, tmp_path):
        with pytest.raises(UserError) as caught:
            find_coco(tmp_path, "val")
        for place in ("instances.json", "images", "annotations/instances_val*.json", "val*"):
            assert str(tmp_path / place) in str(caught.value)

    def test_two_years_are_ambiguous(self, tmp_path):
        (tmp_path / "annotations").mkdir()
        for year in (2014, 2017):
            (tmp_path / "annotations" / f"instances_val{year}.json").write_text("{}")
            (tmp_path / f"val{year}").mkdir()
        with pytest.raises(UserError, match=r"instances_val2014.json and .*instances_val2017.json"):
            find_coco(tmp_path, "val")


def changed(key: str, position: int, **changes) -> dict:
    """The small document with fields of one entry replaced, or removed where `...`."""
    content = document(annotation(1), annotation(2))
    entry = content[key][position]
    for name, value in changes.items():
        if value is ...:
            del entry[name]
        else:
            entry[name] = value
    return content


def without(key: str) -> dict:
    content = document(annotation(1))
    del content[key]
    return content


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("\x00\x01", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "no list 'images'"),
        ("3", "no list 'images'"),
        ({"images": {}}, "no list 'images'"),
        (without("annotations"), "no list 'annotations'"),
        (without("categories"), "no list 'categories'"),
        (document(images=0), "lists no images"),
        (document() | {"categories": []}, "lists no categories"),
        (document() | {"images": ["1.png"]}, r"images\[0\] is not a JSON object"),
        (changed("images", 0, id=...), r"images\[0\] has id None"),
        (changed("images", 0, id="1"), r"images\[0\] has id '1'"),
        (changed("images", 0, id=True), r"images\[0\] has id True"),
        (changed("images", 0, id=2**63), r"images\[0\] has id 9223372036854775808"),
        (changed("images", 0, id=2), r"images\[1\] has id 2 a second time"),
        (changed("images", 0, file_name=...), "file_name None"),
        (changed("images", 0, file_name=""), "file_name ''"),
        (changed("images", 0, file_name="a\0b"), "file_name"),
        (changed("images", 0, file_name="\ud800"), "file_name"),
        (changed("images", 0, height=0), r"1.png\) has height 0"),
        (changed("images", 0, width=30.5), "width 30.5"),
        (changed("images", 0, width=...), "width None"),
        (changed("images", 0, width=10**8), "more than the"),
        (changed("images", 0, file_name="3.png"), r"1 of 2 images .* \(first: 3.png\)"),
        (changed("images", 0, file_name="below/3.png"), r"\(first: below/3.png\)"),
        (changed("images", 0, file_name="../images/1.png"), "leads out of"),
        (changed("images", 0, file_name="/etc/passwd"), "leads out of"),
        (changed("images", 0, file_name="C:\\1.png"), "leads out of"),
        (changed("categories", 0, id=7), r"categories\[1\] has id 7 a second time"),
        (changed("categories", 0, id=None), r"categories\[0\] has id None"),
        (changed("categories", 0, name=3), r"categories\[0\] has name 3"),
        (changed("categories", 0, name="\ud800"), r"categories\[0\] has name '\\ud800'"),
        (document(annotation(1), 5), r"annotations\[1\] is not a JSON object"),
        (changed("annotations", 1, id=1), r"annotations\[1\] has id 1 a second time"),
        (changed("annotations", 1, id="x"), r"annotations\[1\] has id 'x'"),
        (changed("annotations", 1, image_id=...), r"annotations\[1\] has image_id None"),
        (changed("annotations", 1, category_id="7"), "category_id '7'"),
        (changed("annotations", 1, category_id=8), "category_id 8, which is not listed"),
        (changed("annotations", 1, iscrowd="0"), "iscrowd '0'"),
    ],
)
def test_mess_that_is_an_error(tmp_path, content, reason):
    file, images = write(tmp_path, content)
    with pytest.raises(UserError, match=reason) as caught:
        CocoDataset(file, images)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    file, images = write(tmp_path, document())
    with pytest.raises(UserError, match=r"nowhere.json: no such annotation file"):
        CocoDataset(tmp_path / "nowhere.json", images)
    with pytest.raises(UserError, match="cannot be read"):
        CocoDataset(tmp_path, images)
    with pytest.raises(UserError, match="nowhere: no such image folder"):
        CocoDataset(file, tmp_path / "nowhere")


def test_links_may_stay_inside_but_not_lead_out(tmp_path):
    file, images = write(tmp_path, document())
    (images / "1.png").rename(images / "first.png")
    (images / "1.png").symlink_to("first.png")
    assert CocoDataset(file, images)[0].image[0, 0, 0] == 1
    linked_root = tmp_path / "linked"
    linked_root.symlink_to(images)
    assert len(CocoDataset(file, linked_root)) == 2

    (images / "first.png").rename(tmp_path / "outside.png")
    (images / "1.png").unlink()
    (images / "1.png").symlink_to(tmp_path / "outside.png")
    with pytest.raises(UserError, match=r"'1.png', which leads out of"):
        CocoDataset(file, images)


@pytest.mark.parametrize("target", ["1.png", "nowhere.png"])
def test_a_link_that_leads_nowhere_is_a_missing_image(tmp_path, target):
    file, images = write(tmp_path, document())
    (images / "1.png").unlink()
    (images / "1.png").symlink_to(target)
    with pytest.raises(UserError, match=r"1 of 2 images .* are not in .*first: 1\.png"):
        CocoDataset(file, images)


def test_linked_folder_that_leads_out(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(outside / "1.png")
    file, images = write(tmp_path, changed("images", 0, file_name="below/1.png"))
    (images / "below").symlink_to(outside)
    with pytest.raises(UserError, match=r"'below/1.png', which leads out of"):
        CocoDataset(file, images)


def test_images_in_folders_below(tmp_path):
    file, images = write(tmp_path, changed("images", 0, file_name="below/1.png"))
    (images / "below").mkdir()
    (images / "1.png").rename(images / "below" / "1.png")
    assert CocoDataset(file, images)[0].image[0, 0, 0] == 1


MALFORMED_RLE = "a run-length mask that is malformed, empty or not of the image's size"
NO_POLYGON = "a polygon that is not a list of finite numbers"
SHORT_POLYGON = "a polygon of fewer than 6 or an odd count of numbers"
BAD_BOX = "a box that is not four finite numbers"


@pytest.mark.parametrize(
    ("changes", "flaw", "is_trained_on", "is_in_ground_truth"),
    [
        ({"image_id": 77}, "an image that is not listed", False, False),
        ({"bbox": [2, 3, 0, 10]}, "a box of zero size", False, True),
        ({"segmentation": [], "bbox": [2, 3, -1, 10]}, BAD_BOX, False, False),
        ({"segmentation": [], "bbox": [2, math.nan, 5, 5]}, BAD_BOX, False, False),
        ({"segmentation": [], "bbox": [2, 3, math.inf, 5]}, BAD_BOX, False, False),
        ({"segmentation": [], "bbox": [2, 3, 10**400, 5]}, BAD_BOX, False, False),
        ({"segmentation": [], "bbox": [2, 3, 5]}, BAD_BOX, False, False),
        ({"segmentation": [], "bbox": ["two", 3, 5, 5]}, BAD_BOX, False, False),
        ({"segmentation": [], "bbox": {"x": 1}}, BAD_BOX, False, False),
        ({"segmentation": [], "bbox": ...}, BAD_BOX, False, False),
        ({"segmentation": ...}, "no segmentation", False, True),
        ({"segmentation": None}, "no segmentation", False, True),
        ({"segmentation": []}, "no segmentation", False, True),
        ({"segmentation": [[]]}, SHORT_POLYGON, False, True),
        ({"segmentation": SQUARE}, NO_POLYGON, False, True),
        ({"segmentation": "square"}, NO_POLYGON, False, True),
        ({"segmentation": [[2, 3, 12, 3, math.nan, 13]]}, NO_POLYGON, False, True),
        ({"segmentation": [[2, 3, 12, 3, 1e300, 13]]}, NO_POLYGON, False, True),
        ({"segmentation": [[2, 3, 12, 3, "12", 13]]}, NO_POLYGON, False, True),
        ({"segmentation": [[[2, 3], [12, 3], [12, 13]]]}, SHORT_POLYGON, False, True),
        ({"segmentation": [[2, 3, 12, 3]]}, SHORT_POLYGON, False, True),
        ({"segmentation": [[2, 3, 12, 3, 12, 13, 2]]}, SHORT_POLYGON, False, True),
        ({"segmentation": [[2, 3, 12, 3], SQUARE]}, SHORT_POLYGON, True, True),
        ({"segmentation": {}}, MALFORMED_RLE, False, True),
        ({"segmentation": {"size": [20, 30], "counts": None}}, MALFORMED_RLE, False, True),
        ({"segmentation": {"size": [20, 30], "counts": []}}, MALFORMED_RLE, False, True),
        ({"segmentation": {"size": [20, 30], "counts": [600]}}, MALFORMED_RLE, False, True),
        ({"segmentation": {"size": [20, 30], "counts": [5, 20]}}, MALFORMED_RLE, False, True),
        ({"segmentation": {"size": [20, 30], "counts": [5, 700]}}, MALFORMED_RLE, False, True),
        ({"segmentation": {"size": [20, 30], "counts": [-5, 605]}}, MALFORMED_RLE, False, True),
        ({"segmentation": {"size": [20, 30], "counts": ["5", 595]}}, MALFORMED_RLE, False, True),
        ({"segmentation": {"size": [30, 20], "counts": [5, 595]}}, MALFORMED_RLE, False, True),
        ({"segmentation": {"size": "20", "counts": [5, 595]}}, MALFORMED_RLE, False, True),
        ({"segmentation": {"size": [20, 30], "counts": ""}}, MALFORMED_RLE, False, True),
        ({"segmentation": {"size": [20, 30], "counts": "5"}}, MALFORMED_RLE, False, True),
        ({"segmentation": {"size": [20, 30], "counts": "PPPP"}}, MALFORMED_RLE, False, True),
        ({"segmentation": {"size": [20, 30], "counts": "\x01zz~"}}, MALFORMED_RLE, False, True),
        ({"segmentation": {"size": [20, 30], "counts": "é"}}, MALFORMED_RLE, False, True),
    ],
)
def test_mess_that_is_skipped_and_counted(
    tmp_path, changes, flaw, is_trained_on, is_in_ground_truth
):
    content = document(annotation(5, image_id=2), annotation(6, **changes))
    dataset = CocoDataset(*write(tmp_path, content))
    also = {"no segmentation": ["annotation 6"]} if flaw == BAD_BOX else {}
    assert dataset.report.skipped == {flaw: ["annotation 6"], **also}
    assert f"1 with {flaw} (first: annotation 6)" in dataset.summary()
    assert [dataset.has_objects(0), dataset.has_objects(1)] == [is_trained_on, True]
    assert len(dataset[0].masks) == len(dataset[0].boxes) == int(is_trained_on)
    assert dataset.report.objects == 1 + is_trained_on
    kept = {a["id"]: a for a in dataset.ground_truth()["annotations"]}
    assert (6 in kept) == is_in_ground_truth
    if is_in_ground_truth and not is_trained_on and "segmentation" in changes:
        assert "segmentation" not in kept[6]


@pytest.mark.parametrize(
    "line",
    [
        [2, 3, 12, 3, 7, 3],
        [2, 3, 2, 9, 2, 3, 2, 9],
        [5, 5, 5, 5, 5, 5],
        [0.1, 0.1, 7.3, 7.3, 0.7, 0.7, 9.9, 9.9],
        [1, 2, 4, 3, 10, 5],
    ],
)
def test_a_polygon_without_an_area_is_named_and_not_trained_on(tmp_path, line):
    """It is scored all the same, as pycocotools scores it; its box trains a detector of boxes."""
    content = document(
        annotation(5, segmentation=[line]), annotation(6, segmentation=[line, SQUARE])
    )
    files = write(tmp_path, content)
    dataset = CocoDataset(*files)
    flaw = "a polygon without an area: its corners lie on one line"
    assert dataset.report.skipped == {flaw: ["annotation 5"]}
    assert (dataset.report.objects, dataset.report.box_only) == (1, 1)
    assert dataset.ground_truth()["annotations"] == content["annotations"]
    boxes = CocoDataset(*files, masks=False)
    assert (boxes.report.objects, boxes.report.skipped) == (2, {})
    np.testing.assert_array_equal(boxes[0].boxes[0], [2, 3, 12, 13])


@pytest.mark.parametrize(
    "shape", [[0, 0, 10, 10, 10, 0, 0, 10], [3, 3, 3.01, 3, 3, 3.01], [2, 2, 2, 2, 9, 2, 9, 9]]
)
def test_bow_ties_specks_and_repeated_corners_have_an_area(tmp_path, shape):
    dataset = CocoDataset(*write(tmp_path, document(annotation(5, segmentation=[shape]))))
    assert (dataset.report.objects, dataset.report.skipped) == (1, {})


@pytest.mark.parametrize("area", [..., None, "12", math.nan, [4]])
def test_an_area_that_is_none_is_computed_and_counted(tmp_path, area):
    content = document(annotation(5, area=area), annotation(6))
    dataset = CocoDataset(*write(tmp_path, content))
    repair = "an area computed from the mask or box, as it is missing or no number"
    assert dataset.report.repaired == {repair: ["annotation 5"]}
    assert dataset.ground_truth()["annotations"][0]["area"] == 100


def test_objects_that_are_listed_again_are_counted(tmp_path):
    again = [annotation(7), annotation(8, category_id=90), annotation(9, image_id=2)]
    dataset = CocoDataset(*write(tmp_path, document(annotation(5), *again, annotation(10))))
    (doubt,) = dataset.doubts()
    assert str(doubt).startswith(
        "2 of 5 objects are listed again, with the same box and class "
        "(first: [2, 3, 10, 10] in 1.png, [2, 3, 10, 10] in 1.png); remove them"
    )


def test_whole_numbers_written_with_a_point_are_whole_numbers(tmp_path):
    """As tables' exports write them."""
    content = document(annotation(5), annotation(6, image_id=2))
    plain = CocoDataset(*write(tmp_path, content))
    for entry in (*content["images"], *content["annotations"], *content["categories"]):
        for key in ("id", "image_id", "category_id", "height", "width", "iscrowd"):
            if key in entry:
                entry[key] = float(entry[key])
    read = CocoDataset(*write(tmp_path, content))
    for values in (read.image_ids, [category.id for category in read.categories]):
        assert {type(value) for value in values} == {int}
    assert (read.image_ids, read.categories) == (plain.image_ids, plain.categories)
    assert json.dumps(read.ground_truth()) == json.dumps(plain.ground_truth())
    assert read.findings() == plain.findings()


@pytest.mark.parametrize(
    ("part", "key"), [("images", "id"), ("annotations", "image_id"), ("categories", "id")]
)
@pytest.mark.parametrize("value", [2.5, "2", math.nan, math.inf, None, True, [2]])
def test_what_is_no_whole_number_is_no_id(tmp_path, part, key, value):
    content = document(annotation(5))
    content[part][0][key] = value
    with pytest.raises(UserError, match=f"has {key} .*; make it a whole number"):
        CocoDataset(*write(tmp_path, content))


def test_first_example_and_count_of_a_flaw(tmp_path):
    flawed = [annotation(number, bbox=[1, 1, 0, 0]) for number in (4, 3, 9)]
    report = CocoDataset(*write(tmp_path, document(*flawed))).report
    names = ["annotation 4", "annotation 3", "annotation 9"]
    assert report.skipped == {"a box of zero size": names}
    unnamed = CocoDataset(*write(tmp_path, document(annotation(..., image_id=77))))
    assert unnamed.report.skipped == {"an image that is not listed": ["annotations[0]"]}


JUNK = [None, True, -1, 0, 2**70, 0.5, math.nan, math.inf, "x", "", [], [[]], [None], {}, {"a": 1}]


def paths_into(value, path=()):
    yield path
    entries = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, entry in entries:
        yield from paths_into(entry, (*path, key))


def test_no_value_anywhere_gives_a_traceback(tmp_path, square_mask):
    """Every value of a small file replaced by every kind of junk: read, skipped or UserError."""
    sound = document(
        annotation(1),
        annotation(2, image_id=2, segmentation=rle(square_mask)),
        annotation(3, iscrowd=1, segmentation={"size": [HEIGHT, WIDTH], "counts": [5, 595]}),
    )
    file, images = write(tmp_path, sound)
    errors = 0
    for path in paths_into(sound):
        for junk in JUNK:
            content = copy.deepcopy(sound)
            if path:
                place = content
                for key in path[:-1]:
                    place = place[key]
                place[path[-1]] = junk
            file.write_text(json.dumps(content if path else junk))
            try:
                dataset = CocoDataset(file, images)
                for index in range(len(dataset)):
                    example = dataset[index]
                    transform_objects(example, LargeScaleJitter(24).fit(HEIGHT, WIDTH), 24, 7)
                truth = dataset.ground_truth()
            except UserError:
                errors += 1
                continue
            api = COCO()
            api.dataset = truth
            api.createIndex()
            for entry in truth["annotations"]:
                if "segmentation" in entry:
                    api.annToMask(entry)
    assert errors > 100


class TestObjects:
    def test_holes_in_category_ids_and_their_order(self, tmp_path):
        content = document(annotation(1), annotation(2, category_id=90))
        dataset = CocoDataset(*write(tmp_path, content))
        assert dataset.categories == ((7, "train"), (90, "toothbrush"))
        assert dataset[0].labels.tolist() == [0, 1]

    def test_objects_of_an_image_keep_the_order_of_the_file(self, tmp_path):
        boxes = {number: [number, 0, 5, 5] for number in range(1, 7)}
        entries = [
            annotation(number, image_id=1 + number % 2, bbox=box) for number, box in boxes.items()
        ]
        dataset = CocoDataset(*write(tmp_path, document(*entries)))
        assert dataset[0].boxes[:, 0].tolist() == [2, 4, 6]
        assert dataset[1].boxes[:, 0].tolist() == [1, 3, 5]

    def test_run_length_masks_of_both_kinds(self, tmp_path, square_mask):
        compressed = rle(square_mask)
        changes = np.flatnonzero(np.diff(square_mask.ravel(order="F").astype(int))) + 1
        runs = np.diff([0, *changes, square_mask.size]).tolist()
        content = document(
            annotation(1, segmentation=compressed),
            annotation(2, segmentation={"size": [HEIGHT, WIDTH], "counts": runs}),
        )
        dataset = CocoDataset(*write(tmp_path, content))
        assert dataset.report.skipped == {}
        for mask in dataset[0].masks:
            np.testing.assert_array_equal(coco_mask.decode(mask), square_mask)

    def test_crowds_are_left_out_of_examples_only(self, tmp_path, square_mask):
        content = document(annotation(1, iscrowd=1, segmentation=rle(square_mask)))
        dataset = CocoDataset(*write(tmp_path, content))
        assert not dataset.has_objects(0)
        assert len(dataset[0].boxes) == 0
        assert dataset.report.crowds == 1
        assert dataset.ground_truth()["annotations"] == content["annotations"]

    def test_without_image_folder(self, tmp_path):
        file, _ = write(tmp_path, changed("images", 0, file_name="missing.png"))
        dataset = CocoDataset(file, None)
        assert dataset.has_objects(0)
        with pytest.raises(UserError, match="without an image folder"):
            dataset[0]


def test_ground_truth_fills_in_what_custom_sets_lack(tmp_path, square_mask):
    bare = {"id": ..., "area": ..., "iscrowd": ...}
    content = document(
        annotation(0),
        annotation(4, area=None),
        annotation(**{"number": 9, **bare}),
        annotation(**{"number": 9, **bare, "segmentation": rle(square_mask)}),
        annotation(**{"number": 9, **bare, "segmentation": ..., "bbox": [0, 0, 4, 5]}),
    )
    truth = CocoDataset(*write(tmp_path, content)).ground_truth()
    assert [a["id"] for a in truth["annotations"]] == [5, 4, 6, 7, 8]
    assert [a["area"] for a in truth["annotations"]] == [100, 100, 100, 100, 20]
    assert {a["iscrowd"] for a in truth["annotations"]} == {0}
    assert truth["images"] == content["images"]
    assert truth["categories"] == content["categories"]
    json.dumps(truth)


def test_ground_truth_may_be_kept_from_the_one_reading_of_the_file(tmp_path, square_mask):
    content = document(
        annotation(0, area=...),
        annotation(1, bbox=[1, 1, 0, 0]),
        annotation(2, segmentation=rle(square_mask), iscrowd=1),
        annotation(3, image_id=77),
    )
    file, images = write(tmp_path, content)
    plain, kept = (CocoDataset(file, images, keep_ground_truth=keep) for keep in (False, True))
    assert kept.summary() == plain.summary()
    expected = plain.ground_truth()
    file.unlink()
    assert kept.ground_truth() == expected
    assert plain.ground_truth() is expected


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_perfect_detections_of_a_bare_custom_set_score_one(tmp_path, kind):
    content = document(
        *(
            annotation(number, id=number, image_id=1 + number % 2, area=..., iscrowd=...)
            for number in (0, 1)
        )
    )
    truth = COCO()
    truth.dataset = CocoDataset(*write(tmp_path, content)).ground_truth()
    truth.createIndex()
    detections = truth.loadRes(
        [
            {"image_id": image, "category_id": 7, "score": 0.9}
            | ({"bbox": [2, 3, 10, 10]} if kind == "bbox" else {})
            | ({"segmentation": truth.annToRLE(truth.anns[1])} if kind == "segm" else {})
            for image in (1, 2)
        ]
    )
    evaluation = COCOeval(truth, detections, kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def one_image(tmp_path, name: str) -> tuple[Path, CocoDataset]:
    file, images = write(tmp_path, changed("images", 0, file_name=name))
    path = images / name
    path.touch()
    return path, CocoDataset(file, images)


class TestImages:
    @pytest.mark.parametrize(
        ("mode", "name", "colour", "expected"),
        [
            ("L", "a.jpg", 90, (90, 90, 90)),
            ("L", "a.png", 90, (90, 90, 90)),
            ("1", "a.png", 1, (255, 255, 255)),
            ("LA", "a.png", (90, 3), (90, 90, 90)),
            ("P", "a.png", 0, None),
            ("RGBA", "a.png", (10, 20, 30, 40), (10, 20, 30)),
            ("CMYK", "a.jpg", (0, 0, 0, 255), (0, 0, 0)),
            ("CMYK", "a.tiff", (0, 255, 255, 0), (255, 0, 0)),
            ("I;16", "a.png", 0x5A10, (0x5A, 0x5A, 0x5A)),
            ("I;16", "a.tiff", 0xFFFF, (255, 255, 255)),
            ("RGB", "a.bmp", (1, 2, 3), (1, 2, 3)),
            ("RGB", "a.webp", (0, 0, 0), (0, 0, 0)),
        ],
    )
    def test_kinds_of_pixels(self, tmp_path, mode, name, colour, expected):
        path, dataset = one_image(tmp_path, name)
        image = Image.new(mode, (WIDTH, HEIGHT), colour)
        if mode == "P":
            image.putpalette([200, 100, 50])
            expected = (200, 100, 50)
        image.save(path)
        pixels = dataset[0].image
        assert pixels.dtype == np.uint8
        assert pixels.shape == (HEIGHT, WIDTH, 3)
        assert (np.abs(pixels.astype(int) - expected) <= 1).all()

    def test_orientation_note_is_not_followed(self, tmp_path):
        path, dataset = one_image(tmp_path, "a.jpg")
        image = Image.new("RGB", (WIDTH, HEIGHT))
        image.paste((255, 255, 255), (0, 0, WIDTH // 2, HEIGHT))
        exif = Image.Exif()
        exif[0x0112] = 3  # turned by 180 degrees
        image.save(path, exif=exif)
        pixels = dataset[0].image
        assert pixels[:, :8].min() > 200
        assert pixels[:, -8:].max() < 50

    @staticmethod
    def _truncated(path):
        noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:-300])

    @pytest.mark.parametrize("name", ["a.jpg", "a.png"])
    def test_truncated_file(self, tmp_path, name):
        path, dataset = one_image(tmp_path, name)
        self._truncated(path)
        with pytest.raises(UserError, match="cannot be read as an image") as caught:
            _ = dataset[0].image
        assert str(path) in str(caught.value)
        assert "replace the file" in str(caught.value)

    @pytest.mark.parametrize(
        "content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n"]
    )
    def test_no_image_at_all(self, tmp_path, content):
        path, dataset = one_image(tmp_path, "a.jpg")
        path.write_bytes(content)
        with pytest.raises(UserError, match="cannot be read as an image"):
            _ = dataset[0].image

    def test_file_that_went_away(self, tmp_path):
        path, dataset = one_image(tmp_path, "a.jpg")
        path.unlink()
        with pytest.raises(UserError, match="cannot be read as an image"):
            _ = dataset[0].image

    @pytest.mark.parametrize(
        ("size", "reason"),
        [((WIDTH + 1, HEIGHT), "20 x 31 pixels"), ((HEIGHT, WIDTH), "save it upright")],
    )
    def test_size_other_than_listed(self, tmp_path, size, reason):
        path, dataset = one_image(tmp_path, "a.png")
        Image.new("RGB", size).save(path)
        with pytest.raises(UserError, match=reason) as caught:
            _ = dataset[0].image
        assert str(path) in str(caught.value)

    def test_decompression_bomb_is_not_unpacked(self, tmp_path):
        path, dataset = one_image(tmp_path, "a.png")
        Image.new("1", (14_000, 14_000)).save(path, compress_level=1)
        with pytest.raises(UserError, match=r"a\.png"):
            _ = dataset[0].image
