"""Encoders with rotary positions, gates and other parts, under timm's, their authors' and
transformers' names.

What their names do not say:

- EVA-02 (github.com/baaivision/EVA): the grid that rotary positions are made for, 16 in all
  published files; --rope-grid for another.
- The Perception Encoder (github.com/facebookresearch/perception_models): its pooling, or the last
  norm that it lacks, tells it from CLIP; its rotary positions are made for the pre-training's grid.
- DINOv3 (github.com/facebookresearch/dinov3): the models of satellite images (sat493m) saw other
  pixels: --pixel-mean=0.430,0.411,0.296 --pixel-std=0.213,0.156,0.143.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from checkpoints_convert import clip
from checkpoints_convert.clip import join_qkv
from checkpoints_convert.layout import Layout
from checkpoints_convert.tensors import State, concatenate
from jaxdet.errors import UserError

EVA_RENAMES = (
    (r"\.attn\.inner_attn_ln\.", ".attn.norm."),
    (r"\.attn\.([qkv])_proj\.", r".attn.\1."),
    (r"\.mlp\.w1\.", ".mlp.fc1_g."),
    (r"\.mlp\.w2\.", ".mlp.fc1_x."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
    (r"\.mlp\.ffn_ln\.", ".mlp.norm."),
)
"""From the authors' names, and timm's of separate projections."""

ROPE_LEFT_OUT = (
    (r"(^|\.)rope\.(freqs_cos|freqs_sin|freqs|periods)$", "rotary positions follow from the grid"),
    (r"^rope_embed\.periods$", "rotary positions follow from the grid"),
)


def join_gate(state: State) -> State:
    """`mlp.fc1` from `mlp.fc1_g` and `mlp.fc1_x`, and query, key and value together."""
    joined = dict(state)
    for name in state:
        value = name.replace(".mlp.fc1_g.", ".mlp.fc1_x.")
        if value != name and value in joined:
            whole = name.replace(".mlp.fc1_g.", ".mlp.fc1.")
            joined[whole] = concatenate([joined.pop(name), joined.pop(value)])
    return join_qkv(joined)


def drop_masked_bias(state: State) -> State:
    """Meta's DINOv3 stores a bias for queries, keys and values and a mask that takes the keys'."""
    kept = dict(state)
    for name in state:
        if not name.endswith(".attn.qkv.bias_mask"):
            continue
        path = name.removesuffix("qkv.bias_mask")
        bias, mask = kept.pop(f"{path}qkv.bias"), kept.pop(name)
        width = bias.shape[0] // 3
        # The published files mark what is taken away by nan or 0.
        values = np.nan_to_num(mask.read())
        if values.shape != bias.shape or not np.array_equal(
            values, np.repeat([1.0, 0.0, 1.0], width)
        ):
            raise UserError(f"{name} must take the bias of the keys away, and no other")
        for part, start in (("q", 0), ("v", 2 * width)):
            tensor = bias.rows(start, start + width)
            sources = (*bias.sources, *mask.sources)
            kept[f"{path}{part}_bias"] = replace(tensor, sources=sources)
    return kept


def _ends_without(state: State, first: str, last: str) -> bool:
    """Whether a file lacks CLIP's last norm, as PE's spatial and language models do."""
    return first in state and last not in state


def _is_packed_eva02(state: State) -> bool:
    """Whether a file has timm's packed form of EVA-02: one inner layer, no keys' bias."""
    names = ("blocks.0.attn.q_bias", "blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.weight")
    if not all(name in state for name in names):
        return False
    inner, hidden = state[names[1]].shape[:1], state[names[2]].shape[1:]
    return len(hidden) == 1 and inner == (2 * hidden[0],)


EVA02 = Layout(
    name="eva02",
    title="EVA-02",
    marks=(r"blocks\.0\.mlp\.(fc1_g|w1)\.weight$", r"blocks\.0\.mlp\.(norm|ffn_ln)\.weight$"),
    by_values=_is_packed_eva02,
    renames=EVA_RENAMES,
    left_out=ROPE_LEFT_OUT,
    pixels="clip",
    prepare=join_gate,
    vit={"rope": "eva02", "rope_base": 10000.0, "rope_grid": 16.0},
    resize="antialias",
)

DINOV3 = Layout(
    name="dinov3",
    title="DINOv3",
    # timm's vit_*_rope_reg*, whose rotary positions are others, have no class token.
    marks=(r"^(storage_tokens|reg_token)$", r"^cls_token$", r"blocks\.0\.attn\.qkv\.weight$"),
    renames=((r"^storage_tokens$", "reg_token"), *EVA_RENAMES),
    left_out=ROPE_LEFT_OUT,
    pixels="imagenet",
    has_absolute_position=False,
    prepare=lambda state: join_gate(drop_masked_bias(state)),
    vit={"rope": "dinov3", "rope_base": 100.0, "norm_eps": 1e-5},
    excludes=(r"^pos_embed$",),
)

PE = Layout(
    name="pe",
    title="Perception Encoder",
    marks=(r"^norm_pre\.weight$", r"^attn_pool\.", r"^blocks\.0\.attn\.qkv\.weight$"),
    by_values=lambda state: _ends_without(state, "norm_pre.weight", "norm.weight"),
    excludes=(r"^patch_embed\.proj\.bias$",),
    left_out=ROPE_LEFT_OUT,
    pixels="half",
    vit={"rope": "pe", "rope_base": 10000.0, "norm_eps": 1e-5},
    resize="antialias",
)

PE_OFFICIAL = replace(
    PE,
    name="pe-official",
    title="Perception Encoder (its authors')",
    marks=(r"^conv1\.weight$", r"^attn_pool\.probe$"),
    by_values=lambda state: _ends_without(state, "ln_pre.weight", "ln_post.weight"),
    excludes=(r"^conv1\.bias$",),
    prepare=clip.prepare,
    renames=(
        *clip.tower_renames(""),
        (r"\.ls_([12])\.gamma$", r".ls\1.gamma"),
    ),
)

AIMV2 = Layout(
    name="aimv2",
    title="AIMv2",
    marks=(r"^patch_embed\.norm\.weight$", r"blocks\.0\.mlp\.fc1_g\.weight$"),
    pixels="clip",
    prepare=join_gate,
    vit={"norm_eps": 1e-5},
    heads={1024: 8, 1536: 12, 2048: 16, 3072: 24},
    resize="antialias",
)


AIMV2_OFFICIAL = replace(
    AIMV2,
    name="aimv2-official",
    title="AIMv2 (its authors')",
    marks=(r"^preprocessor\.patchifier\.proj\.weight$", r"^trunk\.blocks\.0\.mlp\.fc3\.weight$"),
    renames=(
        (r"^preprocessor\.patchifier\.", "patch_embed."),
        (r"^preprocessor\.pos_embed$", "pos_embed"),
        (r"^trunk\.blocks\.", "blocks."),
        (r"^trunk\.post_trunk_norm\.", "norm."),
        (r"\.norm_([12])\.", r".norm\1."),
        (r"\.mlp\.fc1\.", ".mlp.fc1_g."),
        (r"\.mlp\.fc3\.", ".mlp.fc1_x."),
    ),
    resize="bicubic",
)


def prepare_radio(state: State) -> State:
    """The patch projection as a convolution, class token and registers apart."""
    state = dict(state)
    weight = state.get("patch_embed.proj.weight")
    if weight is not None and len(weight.shape) == 2:
        side = round((weight.shape[1] / 3) ** 0.5)
        if 3 * side * side == weight.shape[1]:
            state["patch_embed.proj.weight"] = weight.reshape(weight.shape[0], 3, side, side)
    tokens = state.pop("prefix", None)
    if tokens is not None:
        count, width = tokens.shape
        state["cls_token"] = tokens.map((1, 1, width), lambda rows: rows[None, :1])
        state["reg_token"] = tokens.map((1, count - 1, width), lambda rows: rows[None, 1:])
    return state


RADIO = Layout(
    name="radio",
    title="RADIO (NVIDIA, transformers)",
    marks=(r"^patch_generator\.embedder\.weight$",),
    renames=(
        (r"^patch_generator\.embedder\.", "patch_embed.proj."),
        (r"^patch_generator\.pos_embed$", "pos_embed"),
        (r"^patch_generator\.cls_token\.token$", "prefix"),
        (r"\.ls([12])\.grandma$", r".ls\1.gamma"),
        (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),  # as transformers saves it
    ),
    left_out=(
        (r"^patch_generator\.", "a part for videos"),
        (r"^summary_idxs$", "an index"),
    ),
    pixels="clip",
    prepare=prepare_radio,
    resize="radio",
)

SAM = Layout(
    name="sam",
    title="SAM",
    marks=(r"(blocks|layers)\.0\.attn\.rel_pos_h$", r"^neck\."),
    renames=(
        (r"^layers\.", "blocks."),
        (r"^patch_embed\.projection\.", "patch_embed.proj."),
        (r"\.layer_norm([12])\.", r".norm\1."),
        (r"\.mlp\.lin([12])\.", r".mlp.fc\1."),
    ),
    left_out=((r"^neck\.", "SAM's neck"),),
    resize="antialias",
)

LAYOUTS = (SAM, RADIO, AIMV2, AIMV2_OFFICIAL, EVA02, DINOV3, PE, PE_OFFICIAL)
