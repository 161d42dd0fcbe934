"""Parameter paths: the dotted names that optimizers, checkpoints and converted weights share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

BACKBONE = r"backbone\."
ABSOLUTE_POSITION = r"backbone\.pos_embed$"
RELATIVE_POSITION = r"backbone\.(rel_pos_|blocks\.\d+\.attn\.rel_pos\.)"
CLASS_TOKEN = r"backbone\.class_(token|pos_embed)$"
REGISTERS = r"backbone\.registers$"
CONV_BLOCKS = r"backbone\.blocks\.\d+\.residual\."
FINAL_NORM = r"backbone\.norm\."
DECODER = r"box_head\.(norm|embed|pos_embed|blocks)\b"
"""What a box head takes from the decoder of a pre-training."""


def path_name(path: Sequence[Any]) -> str:
    """A parameter's path in dotted form, such as "backbone.blocks.0.attn.qkv.kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def leaves_by_name(*trees: Any) -> dict[str, Any]:
    """The leaves of trees by their dotted paths."""
    return {
        path_name(path): leaf
        for tree in trees
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
