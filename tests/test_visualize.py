"""Drawing: colours land on the objects, sizes are right, the input stays as it is."""

from __future__ import annotations

import numpy as np
import pytest

from jaxdet.visualize import PALETTE, contact_sheet, draw_detections

NAMES = ("disc", "box", "triangle", "star")


@pytest.fixture
def image():
    return np.full((200, 300, 3), 120, np.uint8)


@pytest.fixture
def mask():
    mask = np.zeros((200, 300), bool)
    mask[80:120, 100:160] = True
    return mask


BOX = np.array([[90, 70, 170, 130]], np.float32)


def distance(pixels, colour):
    return np.abs(pixels.astype(int) - np.array(colour)).max(axis=-1)


def test_masks_are_translucent_inside_and_solid_along_their_contour(image, mask):
    drawn = draw_detections(image, BOX, np.array([1]), np.array([0.9]), [mask], NAMES, min_side=200)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    inside = 0.6 * 120 + 0.4 * np.array(PALETTE[1])
    assert distance(drawn[90:110, 110:150], inside).max() <= 2
    contour = 0.1 * 120 + 0.9 * np.array(PALETTE[1])
    assert distance(drawn[100, 100], contour) < 30
    assert (drawn[140:, :80] == 120).all()


def test_box_is_outlined_at_its_outermost_pixels(image):
    drawn = draw_detections(image, BOX, np.array([2]), None, None, NAMES, min_side=200)
    colour = PALETTE[2]
    for row, column in ((70, 130), (129, 130), (100, 90), (100, 169)):
        assert distance(drawn[row, column], colour) == 0
    for row, column in ((131, 130), (100, 88), (100, 171), (100, 130)):
        assert (drawn[row, column] == 120).all()


def test_small_images_are_enlarged_and_boxes_with_them():
    image = np.full((50, 100, 3), 120, np.uint8)
    drawn = draw_detections(
        image, np.array([[20, 20, 60, 40]]), np.array([0]), None, None, NAMES, min_side=400
    )
    assert drawn.shape == (400, 800, 3)
    assert distance(drawn[240, 160], PALETTE[0]) == 0
    assert (drawn[240, 300] == 120).all()


def test_large_images_keep_their_size():
    image = np.zeros((500, 700, 3), np.uint8)
    nothing = np.zeros((0, 4)), np.zeros(0, int), np.zeros(0), np.zeros((0, 500, 700), bool)
    np.testing.assert_array_equal(draw_detections(image, *nothing, NAMES), image)


def test_labels_name_the_class_and_the_score(image):
    def label(name, score):
        scores = None if score is None else np.array([score])
        return draw_detections(image, BOX, np.array([0]), scores, None, [name], min_side=200)

    plain = label("disc", None)
    assert (plain[:70] != 120).any()
    assert (label("disc", 0.5) != plain).any()
    assert (label("disc", 0.5) != label("disc", 0.6)).any()
    np.testing.assert_array_equal(label("disc", 0.501), label("disc", 0.502))
    assert (label("star", None) != plain).any()


def test_labels_of_equal_boxes_do_not_hide_each_other(image):
    """Each of three classes shows its colour in a label of its own, beside the outline."""
    boxes = np.repeat(BOX, 3, axis=0)
    drawn = draw_detections(image, boxes, np.arange(3), None, None, NAMES, min_side=200)
    outline = 2 * (80 + 60)
    for label in range(3):
        assert np.count_nonzero(distance(drawn, PALETTE[label]) == 0) > 100, NAMES[label]
    assert np.count_nonzero(distance(drawn, PALETTE[0]) == 0) < outline


def test_boxes_and_masks_may_touch_or_leave_the_image(image):
    masks = np.ones((4, 200, 300), bool)
    masks[3] = False
    boxes = np.array(
        [[0, 0, 300, 200], [-50, -50, 20, 20], [290, 190, 400, 400], [299.7, 199.7, 300, 300]]
    )
    scores = np.array([0.1, 0.2, 0.3, 0.4])
    drawn = draw_detections(image, boxes, np.arange(4), scores, masks, NAMES)
    assert drawn.shape == (480, 720, 3)


def test_more_classes_than_colours_start_over(image):
    label = len(PALETTE)
    names = [str(number) for number in range(label + 1)]
    drawn = draw_detections(image, BOX, np.array([label]), None, None, names, min_side=200)
    assert distance(drawn[100, 90], PALETTE[0]) == 0


def test_the_image_itself_is_not_drawn_on(image, mask):
    before = image.copy()
    draw_detections(image, BOX, np.array([1]), None, [mask], NAMES, min_side=200)
    np.testing.assert_array_equal(image, before)


def test_contact_sheet_places_images_row_by_row():
    images = [np.full((40, 80, 3), value, np.uint8) for value in (10, 20, 30, 40, 50)]
    sheet = contact_sheet(images, 2, cell=80, padding=4)
    assert sheet.shape == (4 + 3 * 44, 4 + 2 * 84, 3)
    for number, value in enumerate((10, 20, 30, 40, 50)):
        row, column = divmod(number, 2)
        top, left = 4 + row * 44, 4 + column * 84
        assert (sheet[top : top + 40, left : left + 80] == value).all()
    assert (sheet[-44:, 88:] == 255).all()
    assert (sheet[:4] == 255).all()


def test_contact_sheet_fits_every_image_to_the_cell():
    tall, wide = np.zeros((300, 100, 3), np.uint8), np.zeros((20, 60, 3), np.uint8)
    sheet = contact_sheet([tall, wide], 5, cell=120, padding=0)
    assert sheet.shape == (120, 240, 3)
    assert (sheet[:, 40:80] == 0).all()
    assert (sheet[40:80, 120:] == 0).all()
    assert (sheet[:40, 120:] == 255).all()
