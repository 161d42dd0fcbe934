"""timm's Vision Transformers, and the pre-trainings whose code descends from timm's.

What each file holds beside the ViT, and what it saw:

- MoCo v3 (github.com/facebookresearch/moco-v3): the base encoder is used.
- BEiT (github.com/microsoft/unilm, beit): pre-trained, with one table of relative positions for
  all blocks, or fine-tuned, with a table in each. BEiT's published files saw pixels between -1 and
  1 (--from=beit), BEiTv2's, which have the same names, ImageNet's (--from=beitv2).
- DINO and iBOT (github.com/facebookresearch/dino, github.com/bytedance/ibot): of a training
  checkpoint the teacher is read, as their authors evaluate it.
- DINOv2 (github.com/facebookresearch/dinov2), with or without register tokens, and Franca
  (github.com/valeoai/Franca), which has its names. Their patches have 14 pixels; detectors of patch
  16 need --patch=16.
- I-JEPA (github.com/facebookresearch/ijepa): the target encoder, under timm's names.
- MAE (github.com/facebookresearch/mae): the encoder alone, with its decoder, or a whole run.
- DeiT, timm: their names say nothing of the pixels; timm's config.json does, or --pixels.
"""

from __future__ import annotations

import numpy as np

from checkpoints_convert.layout import Layout
from checkpoints_convert.tensors import State

MOCO_V3 = Layout(
    name="mocov3",
    title="MoCo v3",
    marks=(r"^module\.base_encoder\.",),
    heads={384: 12},  # its ViT-S has the heads of ViT-B
    renames=((r"^module\.base_encoder\.", ""),),
    left_out=(
        (r"^module\.momentum_encoder\.", "the momentum encoder; the base encoder is used"),
        (r"^module\.predictor\.", "the predictor of the pre-training"),
    ),
)

BEIT = Layout(
    name="beit",
    title="BEiT",
    marks=(r"^(rel_pos_bias|blocks\.0\.attn)\.relative_position_bias_table$",),
    left_out=(
        (r"^(lm_head|cls_pt_layers)\.", "the head of the pre-training"),
        (r"^rel_pos_bias\.relative_position_index$", "an index that follows from the grid"),
    ),
    pixels=None,
    has_absolute_position=False,
    heads={1408: 16},
)

DINO = Layout(
    name="dino",
    title="DINO, iBOT",
    marks=(r"head\.last_layer|^masked_embed$",),
    renames=((r"^(module\.)?(backbone\.)?", ""),),
    left_out=((r"^(head2?|projection_head)\.", "the head of the pre-training"),),
)

DINOV2 = Layout(
    name="dinov2",
    title="DINOv2",
    marks=(r"\.ls1\.gamma$", r"mask_token$"),
    # Some files keep blocks in chunks: blocks.0.3. is block 3 of chunk 0.
    renames=((r"^(module\.)?(backbone\.)?", ""), (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.")),
    left_out=(
        (r"^(dino|ibot)_head\.", "the head of the pre-training"),
        (r"^rasa_head\.", "takes positions out of the ViT's outputs"),
    ),
    excludes=(r"(^|\.)(storage_tokens|rope_embed\.)",),
)


def has_sincos_position(state: State) -> bool:
    """Whether the position embedding is MAE's: sines and cosines, zero for the class token."""
    position = state.get("pos_embed")
    if position is None or len(position.shape) != 3 or not position.size:
        return False
    if "blocks.0.attn.qkv.weight" not in state:
        return False
    values = position.read()[0]
    sines, cosines = np.split(values[1:, : values.shape[1] // 4 * 2], 2, axis=1)
    return not values[0].any() and bool(np.allclose(sines**2 + cosines**2, 1, atol=1e-4))


MAE = Layout(
    name="mae",
    title="MAE",
    marks=(r"^decoder_embed\.weight$",),
    by_values=has_sincos_position,
    left_out=((r"^decoder_", "the decoder of the pre-training"),),
    heads={1280: 16},
)

CLIP = Layout(
    name="clip-timm",
    title="CLIP (timm)",
    marks=(r"^norm_pre\.weight$", r"^norm\.weight$", r"^blocks\.0\.attn\.qkv\.weight$"),
    excludes=(r"^patch_embed\.proj\.bias$", r"^attn_pool\."),
    pixels="clip",
    activation=None,
    vit={"norm_eps": 1e-5},
    heads={1280: 16, 1408: 16, 1664: 16},
    resize="antialias",
)

TIMM = Layout(
    name="timm",
    title="DeiT, timm",
    marks=(r"^blocks\.0\.attn\.qkv\.weight$",),
    pixels=None,
    heads={1152: 16, 1280: 16, 1408: 16, 1664: 16},
    resize="antialias",
    is_fallback=True,
)
