"""DINOv2 (github.com/facebookresearch/dinov2), with or without register tokens.

Its patches have 14 pixels: detectors of patch 16 need --patch=16, others a config of patch 14 that
a multiple of 4 rules out.
"""

from __future__ import annotations

from checkpoints_convert.layout import Layout
from checkpoints_convert.tensors import State


def recognise(state: State) -> bool:
    has_scale = any(name.endswith(".ls1.gamma") for name in state)
    return has_scale and any(name.endswith("mask_token") for name in state)


LAYOUT = Layout(
    name="dinov2",
    title="DINOv2",
    recognise=recognise,
    # Some files keep blocks in chunks: blocks.0.3. is block 3 of chunk 0.
    renames=((r"^(module\.)?(backbone\.)?", ""), (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.")),
    left_out=((r"^(dino|ibot)_head\.", "the head of the pre-training"),),
)
