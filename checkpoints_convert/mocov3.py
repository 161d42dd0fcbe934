"""MoCo v3 (github.com/facebookresearch/moco-v3): the base encoder of a pre-training checkpoint."""

from __future__ import annotations

from checkpoints_convert.layout import Layout
from checkpoints_convert.tensors import State


def recognise(state: State) -> bool:
    return any(name.startswith("module.base_encoder.") for name in state)


LAYOUT = Layout(
    name="mocov3",
    title="MoCo v3",
    recognise=recognise,
    renames=((r"^module\.base_encoder\.", ""),),
    left_out=(
        (r"^module\.momentum_encoder\.", "the momentum encoder; the base encoder is used"),
        (r"^module\.predictor\.", "the predictor of the pre-training"),
    ),
)
