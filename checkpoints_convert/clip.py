"""The image towers of CLIP, as OpenCLIP (`visual.`) and Hugging Face (`vision_model.`) store it,
and of SigLIP, as Hugging Face does; `timm.CLIP` is timm's.

CLIP's files do not say whether the MLP's activation is OpenAI's QuickGELU or the exact GELU of most
later trainings.
"""

from __future__ import annotations

import re
from dataclasses import replace

from checkpoints_convert.layout import Layout
from checkpoints_convert.tensors import State, Tensor, concatenate

TEXT = (
    (
        r"^(text_model|text|transformer|token_embedding|ln_final|text_embeddings?)\b",
        "the text tower",
    ),
    (r"^(positional_embedding|text_projection|visual_projection|proj|attn_mask)\b", "joins towers"),
    (r"^(logit_scale|logit_bias|context_length|input_resolution|vocab_size)$", "joins towers"),
    (r"position_ids$", "an index that follows from the grid"),
    (r"^head\.", "a head of the pre-training"),
)


def prepare(state: State) -> State:
    """Joins query, key and value, and gives class token and positions their first axes."""
    state = join_qkv(state)
    if "class_position" in state:
        position = state.pop("class_position")
        state["pos_embed"] = position.reshape(1, *position.shape)
    token = state.get("cls_token")
    if token is not None:
        state["cls_token"] = token.reshape(1, 1, token.size)
    return state


def join_qkv(state: State) -> State:
    """`attn.qkv` from `attn.q`, `attn.k` and `attn.v` of every block that has all three; biases of
    queries and values alone under BEiT's names.
    """
    joined = dict(state)
    for name in state:
        match = re.fullmatch(r"((?:decoder_)?blocks\.\d+\.attn\.)q\.(weight|bias)", name)
        if not match:
            continue
        path, leaf = match.groups()
        parts = [f"{path}{part}.{leaf}" for part in "qkv"]
        if all(part in state for part in parts):
            joined[f"{path}qkv.{leaf}"] = concatenate([joined.pop(part) for part in parts])
        elif leaf == "bias" and parts[1] not in state and parts[2] in state:
            joined[f"{path}q_bias"], joined[f"{path}v_bias"] = (
                joined.pop(parts[0]),
                joined.pop(parts[2]),
            )
    return joined


def tower_renames(prefix: str) -> tuple[tuple[str, str], ...]:
    """OpenCLIP's names of an image tower, behind a prefix (a pattern), to timm's."""
    return (
        (rf"^{prefix}conv1\.", "patch_embed.proj."),
        (rf"^{prefix}class_embedding$", "cls_token"),
        (rf"^{prefix}positional_embedding$", "class_position"),
        (rf"^{prefix}ln_pre\.", "norm_pre."),
        (rf"^{prefix}ln_post\.", "norm."),
        (rf"^{prefix}transformer\.resblocks\.", "blocks."),
        (r"^(blocks\.\d+)\.attn\.in_proj_(weight|bias)$", r"\1.attn.qkv.\2"),
        (r"^(blocks\.\d+)\.attn\.out_proj\.", r"\1.attn.proj."),
        (r"^(blocks\.\d+)\.ln_([12])\.", r"\1.norm\2."),
        (r"^(blocks\.\d+)\.mlp\.c_fc\.", r"\1.mlp.fc1."),
        (r"^(blocks\.\d+)\.mlp\.c_proj\.", r"\1.mlp.fc2."),
    )


OPEN_CLIP = Layout(
    name="clip",
    title="CLIP (OpenCLIP)",
    marks=(r"^visual\.conv1\.weight$", r"^visual\.ln_post\.weight$"),
    renames=(
        (r"^visual\.proj$", "proj"),
        *tower_renames(r"visual\."),
    ),
    left_out=TEXT,
    pixels="clip",
    activation=None,
    prepare=prepare,
    vit={"norm_eps": 1e-5},
    excludes=(r"^visual\.attn_pool\.probe$",),
)

VISION = r"^(vision_model\.)?embeddings\."
"""Alone, as transformers 5 saves an image tower, its names have nothing in front."""

HUGGING_FACE = Layout(
    name="clip-hf",
    title="CLIP (Hugging Face)",
    marks=(rf"{VISION}class_embedding$",),
    renames=(
        (r"^vision_model\.", ""),
        (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
        (r"^embeddings\.position_embedding\.weight$", "class_position"),
        (r"^embeddings\.class_embedding$", "cls_token"),
        (r"^pre_layrnorm\.", "norm_pre."),
        (r"^post_layernorm\.", "norm."),
        (r"^encoder\.layers\.", "blocks."),
        (r"\.self_attn\.([qkv])_proj\.", r".attn.\1."),
        (r"\.self_attn\.out_proj\.", ".attn.proj."),
        (r"\.layer_norm([12])\.", r".norm\1."),
    ),
    left_out=TEXT,
    pixels="clip",
    activation=None,
    prepare=prepare,
    vit={"norm_eps": 1e-5},
)


def naflex_projection(weight: Tensor) -> Tensor:
    """The patch projection of SigLIP 2's NaFlex, [width, inputs] over (rows, columns, channels), as
    a convolution's [width, 3, side, side]; unchanged where its patches are not square.
    """
    width, inputs = weight.shape
    side = round((inputs / 3) ** 0.5)
    if 3 * side * side != inputs:
        return weight
    return weight.reshape(width, side, side, 3).transpose(0, 3, 1, 2)


def prepare_siglip(state: State) -> State:
    """Also a patch projection of NaFlex."""
    name = "patch_embed.proj.weight"
    if name in state and len(state[name].shape) == 2:
        state = {**state, name: naflex_projection(state[name])}
    return prepare(state)


SIGLIP = replace(
    HUGGING_FACE,
    name="siglip",
    title="SigLIP",
    marks=(rf"{VISION}position_embedding\.weight$", r"(^|\.)encoder\.layers\.0\.self_attn\."),
    pixels="half",
    activation="gelu_tanh",
    prepare=prepare_siglip,
    vit={},
    excludes=(rf"{VISION}class_embedding$",),
)
