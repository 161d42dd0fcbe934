"""Parameter paths: the dotted names that optimizers, checkpoints and converted weights share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax


def path_name(path: Sequence[Any]) -> str:
    """A parameter's path in dotted form, such as "backbone.blocks.0.attn.qkv.kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator=".")
