"""From a trained detector's arrays to those of one of other classes: which output goes where."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from jaxdet.flags import listed

OUTPUTS = re.compile(
    r"(?P<part>box_head|mask_head)\.(?:\d+\.)?(?P<name>logits|deltas)\.(?:kernel|bias)"
)
"""The layers of the heads that say something of each class, in each stage of a cascade."""

_COCO = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, "
    "fire hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, "
    "bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, "
    "sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, "
    "bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, "
    "carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, "
    "tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, "
    "refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush"
)

COCO_CLASSES = tuple(_COCO.split(", "))
"""COCO's, in the order of its ids: what the outputs of published detectors mean."""


@dataclass(frozen=True)
class ClassMatch:
    """What becomes of the classes that a trained detector knows.

    Attributes:
        kept, moved: names known to both, at the same place among the outputs and at another.
        new: names that the trained detector does not know.
        dropped: names that only it knows.
        pairs: of what is kept or moved, place among the new outputs and among the old.
    """

    kept: tuple[str, ...]
    moved: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]

    def lines(self, shown: int = 12) -> list[str]:
        """The table: one line for each kind of class, of each at most `shown` names."""
        rows = (
            ("kept", self.kept, "same class, same place"),
            ("moved", self.moved, "same class at another place: its weights move there"),
            ("new", self.new, "start as the config says"),
            ("dropped", self.dropped, "not among the classes of the data"),
        )
        return [
            f"  {kind:<8}{len(names):>5}  {listed(names, shown) if names else '-'}"
            + (f"  ({meaning})" if names else "")
            for kind, names, meaning in rows
        ]


def match_classes(old: Sequence[str], new: Sequence[str]) -> ClassMatch:
    """Finds classes by name: as it is written, else without letter case, "_" and "-".

    A name that several classes of either side have means none of them.

    Args:
        old, new: names in the order of the outputs.
    """
    places = _unique(old)
    plain = _unique([_plain(name) for name in old])
    ours_exact, ours_plain = _unique(new), _unique([_plain(name) for name in new])
    pairs, taken = [], set()
    for here, name in enumerate(new):
        there = places.get(name) if name in ours_exact else None
        if there is None and _plain(name) in ours_plain:
            there = plain.get(_plain(name))
        if there is not None and there not in taken:
            pairs.append((here, there))
            taken.add(there)
    known = dict(pairs)
    return ClassMatch(
        kept=tuple(new[here] for here, there in pairs if here == there),
        moved=tuple(new[here] for here, there in pairs if here != there),
        new=tuple(name for here, name in enumerate(new) if here not in known),
        dropped=tuple(name for there, name in enumerate(old) if there not in taken),
        pairs=tuple(pairs),
    )


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _unique(names: Sequence[str]) -> dict[str, int]:
    """Places of the names that are there once."""
    counts = Counter(names)
    return {name: place for place, name in enumerate(names) if counts[name] == 1}


def moved_outputs(
    name: str,
    old: np.ndarray,
    new: np.ndarray,
    pairs: Collection[tuple[int, int]],
    counts: tuple[int, int],
    *,
    class_agnostic: bool = False,
) -> np.ndarray | None:
    """An output layer's array with what is known of its classes in the place that they have now.

    Args:
        name: path of the array, which `OUTPUTS` matches.
        old, new: the trained array and the fresh one; the last axis holds the classes, in box
            logits followed by the background, in box deltas four numbers each. Not changed.
        pairs: places of the same class among the new outputs and among the old.
        counts: number of classes now and then.
        class_agnostic: whether box deltas are for all classes alike, where their shape does not
            tell, as each detector knows one class.

    Returns:
        The new array; None where the two do not fit.
    """
    output = OUTPUTS.fullmatch(name)
    has_background = output["part"] == "box_head" and output["name"] == "logits"
    by_class = 4 if output["name"] == "deltas" else 1
    if old.ndim != new.ndim or old.shape[:-1] != new.shape[:-1]:
        return None
    is_shared = class_agnostic or counts != (1, 1)
    if by_class == 4 and is_shared and old.shape[-1] == new.shape[-1] == by_class:
        return old  # one box for all classes
    rows = [(count + has_background) * by_class for count in counts]
    if [new.shape[-1], old.shape[-1]] != rows:
        return None
    result = np.array(new).reshape(*new.shape[:-1], -1, by_class)
    source = np.asarray(old).reshape(*old.shape[:-1], -1, by_class)
    here, there = np.array(sorted(pairs), int).reshape(-1, 2).T
    result[..., here, :] = source[..., there, :]
    if has_background:
        result[..., -1, :] = source[..., -1, :]
    return result.reshape(new.shape)
