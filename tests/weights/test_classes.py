"""Heads for other classes: what is known of a class goes where the class now is."""

from __future__ import annotations

import numpy as np
import pytest

from jaxdet.weights.classes import COCO_CLASSES, match_classes, moved_outputs

OLD, NEW = ("cat", "dog", "cow"), ("dog", "cat", "yak", "cow")


def numbered(*shape, start=0):
    return (start + np.arange(np.prod(shape), dtype=np.float32)).reshape(shape)


def test_every_class_is_kept_moved_new_or_dropped():
    match = match_classes((*OLD, "emu"), NEW)
    assert match.kept == ()
    assert match.moved == ("dog", "cat", "cow")
    assert match.new == ("yak",)
    assert match.dropped == ("emu",)
    assert match.pairs == ((0, 1), (1, 0), (3, 2))
    assert match_classes(OLD, OLD).kept == OLD
    assert match_classes(OLD, ()).dropped == OLD
    lines = match.lines(shown=2)
    assert [line.split()[:2] for line in lines] == [
        ["kept", "0"],
        ["moved", "3"],
        ["new", "1"],
        ["dropped", "1"],
    ]
    assert "dog, cat and 1 more" in lines[1]


@pytest.mark.parametrize(
    ("old", "new", "pairs"),
    [
        (["dining table"], ["Dining_Table"], ((0, 0),)),
        (["Cat", "cat"], ["cat"], ((0, 1),)),
        (["cat"], ["Cat", "cat"], ((1, 0),)),
        (["Cat", "CAT"], ["cat"], ()),  # either may be meant
        (["cat", "cat"], ["cat"], ()),
        (["cat"], ["cat", "cat"], ()),
    ],
)
def test_names_are_compared_as_written_and_then_without_their_spelling(old, new, pairs):
    assert match_classes(old, new).pairs == pairs


@pytest.mark.parametrize("stage", ["", "0.", "2."])
def test_outputs_follow_their_class(stage):
    pairs, counts = match_classes(OLD, NEW).pairs, (4, 3)
    logits = f"box_head.{stage}logits.kernel"
    old, new = numbered(2, 4), numbered(2, 5, start=100)
    moved = moved_outputs(logits, old, new, pairs, counts)
    np.testing.assert_array_equal(moved[:, [0, 1, 3, 4]], old[:, [1, 0, 2, 3]])  # 4: background
    np.testing.assert_array_equal(moved[:, 2], new[:, 2])
    assert (new == numbered(2, 5, start=100)).all()

    old, new = numbered(12), numbered(16, start=100)
    moved = moved_outputs(f"box_head.{stage}deltas.bias", old, new, pairs, counts)
    rows, known, fresh = (array.reshape(-1, 4) for array in (moved, old, new))
    np.testing.assert_array_equal(rows[[0, 1, 3]], known[[1, 0, 2]])
    np.testing.assert_array_equal(rows[2], fresh[2])

    old, new = numbered(1, 1, 2, 3), numbered(1, 1, 2, 4, start=100)
    moved = moved_outputs("mask_head.logits.kernel", old, new, pairs, counts)
    np.testing.assert_array_equal(moved[..., [0, 1, 3]], old[..., [1, 0, 2]])
    np.testing.assert_array_equal(moved[..., 2], new[..., 2])


def test_one_box_for_all_classes_is_taken_as_it_is():
    old, new = numbered(2, 4), numbered(2, 4, start=100)
    moved = moved_outputs("box_head.0.deltas.kernel", old, new, (), (4, 3))
    np.testing.assert_array_equal(moved, old)
    # Of one class alone, the box is that class's.
    moved = moved_outputs("box_head.deltas.kernel", old, new, (), (1, 1))
    np.testing.assert_array_equal(moved, new)
    moved = moved_outputs("box_head.deltas.kernel", old, new, (), (1, 1), class_agnostic=True)
    np.testing.assert_array_equal(moved, old)


def test_outputs_of_another_width_do_not_fit():
    wrong = (numbered(3, 4), numbered(2, 5)), (numbered(2, 5), numbered(2, 5))
    for old, new in wrong:
        assert moved_outputs("box_head.logits.kernel", old, new, (), (4, 3)) is None


def test_outputs_without_an_axis_do_not_fit():
    new = numbered(4)
    for name in ("box_head.logits.bias", "box_head.deltas.bias", "mask_head.logits.bias"):
        assert moved_outputs(name, numbered(), new, (), (1, 1)) is None


def test_thirty_thousand_classes_are_matched_in_a_moment():
    names = [f"class {i}" for i in range(30_000)]
    assert match_classes(names, names).kept == tuple(names)


def test_the_classes_of_published_detectors_are_coco_s():
    assert len(COCO_CLASSES) == len(set(COCO_CLASSES)) == 80
    assert (COCO_CLASSES[0], COCO_CLASSES[-1]) == ("person", "toothbrush")
    assert COCO_CLASSES.index("dining table") == 60
