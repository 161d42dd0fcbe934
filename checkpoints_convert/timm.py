"""timm's Vision Transformers, DeiT and every descendant that keeps their names.

Supervised ImageNet-1k models as a rule, whose pixels are ImageNet's; models of timm whose card says
0.5 need --pixels=half, since the file does not tell.
"""

from __future__ import annotations

from checkpoints_convert.layout import Layout
from checkpoints_convert.tensors import State


def recognise(state: State) -> bool:
    return any(name.endswith("blocks.0.attn.qkv.weight") for name in state)


LAYOUT = Layout(
    name="timm",
    title="DeiT, timm",
    recognise=recognise,
    renames=((r"^(module\.)?(backbone\.|encoder\.|base_encoder\.)?", ""),),
)
