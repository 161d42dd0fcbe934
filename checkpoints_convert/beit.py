"""BEiT (github.com/microsoft/unilm, beit): pre-trained, with one table of relative positions for
all blocks, or fine-tuned, with a table in each.

The published files saw pixels between -1 and 1. Pre-training by the same code on ImageNet-1k with
its option --imagenet_default_mean_and_std needs --pixels=imagenet.
"""

from __future__ import annotations

from checkpoints_convert.layout import Layout
from checkpoints_convert.tensors import State
from checkpoints_convert.vit import BLOCK_TABLE, SHARED_TABLE


def recognise(state: State) -> bool:
    return SHARED_TABLE in state or BLOCK_TABLE.format(0) in state


LAYOUT = Layout(
    name="beit",
    title="BEiT",
    recognise=recognise,
    left_out=((r"^lm_head\.", "the head of the pre-training"),),
    pixels="half",
    has_absolute_position=False,
)
