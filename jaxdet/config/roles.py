"""Which config keys may differ where: on resume, at test time; and where two configs differ."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ml_collections import ConfigDict

NEUTRAL_KEYS = tuple(
    f"config.{word}"
    for word in (
        "init",
        "weights",
        "few_shot.base_run",
        "data.root",
        "data.train_annotations",
        "data.train_images",
        "data.val_annotations",
        "data.val_images",
        "data.threads",
        "data.workers",
        "model.vit.remat",
        "model.vit.attention",
        "eval_batch_size",
        "eval_workers",
        "log_every_steps",
        "log_every_seconds",
        "on_nonfinite",
        "profile_steps",
        "sharding",
    )
)
"""Words a resumed run may change: where its files lie, and what its result does not depend on."""


TEST_KEYS = (
    "test_pre_nms",
    "test_post_nms",
    "score_threshold",
    "nms",
    "nms_threshold",
    "nms_sigma",
    "nms_min_score",
    "detections",
    "max_candidates",
)
"""Words of config.model.detector that a trained detector may be evaluated with others of."""


def resumable_keys(config: ConfigDict) -> tuple[str, ...]:
    """The words that a resumed run of this config may change, each with "config." before it."""
    if config.batch_statistics == "batch":
        return (*NEUTRAL_KEYS, "config.accumulate")
    return NEUTRAL_KEYS


def difference(
    stored: Any, given: Any, word: str = "config", ignored: Collection[str] = ()
) -> str | None:
    """The first word in which two plain configs differ, with both values; None if in none.

    Args:
        stored, given: nested dictionaries of JSON values.
        word: what the values are called.
        ignored: dotted words that may differ.
    """
    if word in ignored:
        return None
    if isinstance(stored, dict) and isinstance(given, dict):
        for name in sorted(stored.keys() | given.keys()):
            found = difference(stored.get(name), given.get(name), f"{word}.{name}", ignored)
            if found:
                return found
        return None
    return None if stored == given else f"{word} was {stored!r} and is now {given!r}"
