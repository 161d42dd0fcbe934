"""MAE (github.com/facebookresearch/mae): the encoder alone, with its decoder, or a whole run."""

from __future__ import annotations

import numpy as np

from checkpoints_convert.layout import Layout
from checkpoints_convert.tensors import State


def recognise(state: State) -> bool:
    """By the decoder, or by the position embedding: sines and cosines, zero for the class token."""
    if "decoder_embed.weight" in state:
        return True
    position = state.get("pos_embed")
    if position is None or len(position.shape) != 3 or "blocks.0.attn.qkv.weight" not in state:
        return False
    values = position.read()[0]
    sines, cosines = np.split(values[1:, : values.shape[1] // 4 * 2], 2, axis=1)
    return not values[0].any() and bool(np.allclose(sines**2 + cosines**2, 1, atol=1e-4))


LAYOUT = Layout(
    name="mae",
    title="MAE",
    recognise=recognise,
    left_out=((r"^decoder_", "the decoder of the pre-training"),),
)
