"""DINO and iBOT (github.com/facebookresearch/dino, github.com/bytedance/ibot).

Of a training checkpoint the teacher is read, as their authors evaluate it. A file of the backbone
alone is timm's layout.
"""

from __future__ import annotations

from checkpoints_convert.layout import Layout
from checkpoints_convert.tensors import State


def recognise(state: State) -> bool:
    return any("head.last_layer" in name for name in state) or "masked_embed" in state


LAYOUT = Layout(
    name="dino",
    title="DINO, iBOT",
    recognise=recognise,
    renames=((r"^(module\.)?(backbone\.)?", ""),),
    left_out=((r"^(head2?|projection_head)\.", "the head of the pre-training"),),
)
