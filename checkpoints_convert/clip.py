"""The image towers of CLIP, as OpenCLIP (`visual.`) and Hugging Face (`vision_model.`) store it,
and of SigLIP, as Hugging Face does; timm's copies are timm's layout.

CLIP's files leave out the bias of the patch projection, which is then zero, and do not say whether
the MLP's activation is OpenAI's QuickGELU or the exact GELU of most later trainings. CLIP's norms
add 1e-5 to the variance where jaxdet's add 1e-6.
"""

from __future__ import annotations

import re
from dataclasses import replace

from checkpoints_convert.layout import Layout
from checkpoints_convert.tensors import State, concatenate, zeros

TEXT = (
    (
        r"^(text_model|text|transformer|token_embedding|ln_final|text_embeddings?)\b",
        "the text tower",
    ),
    (r"^(positional_embedding|text_projection|visual_projection|proj|attn_mask)\b", "joins towers"),
    (r"^(logit_scale|logit_bias|context_length|input_resolution|vocab_size)$", "joins towers"),
    (r"position_ids$", "an index that follows from the grid"),
)


def prepare(state: State) -> State:
    """Adds the bias of the patch projection, joins query, key and value, orders the axes."""
    state = join_qkv(state)
    if "class_position" in state:
        position = state.pop("class_position")
        state["pos_embed"] = position.reshape(1, *position.shape)
    if "patch_embed.proj.weight" in state and "patch_embed.proj.bias" not in state:
        state["patch_embed.proj.bias"] = zeros(state["patch_embed.proj.weight"].shape[0])
    return state


def join_qkv(state: State) -> State:
    """`attn.qkv` from `attn.q`, `attn.k` and `attn.v` of every block that has all three."""
    joined = dict(state)
    for name in state:
        match = re.fullmatch(r"(blocks\.\d+\.attn\.)q\.(weight|bias)", name)
        parts = [f"{match[1]}{part}.{match[2]}" for part in "qkv"] if match else []
        if parts and all(part in state for part in parts):
            joined[f"{match[1]}qkv.{match[2]}"] = concatenate([joined.pop(part) for part in parts])
    return joined


OPEN_CLIP = Layout(
    name="clip",
    title="CLIP (OpenCLIP)",
    marks=(r"^visual\.conv1\.weight$",),
    renames=(
        (r"^visual\.proj$", "proj"),
        (r"^visual\.conv1\.", "patch_embed.proj."),
        (r"^visual\.class_embedding$", "cls_token"),
        (r"^visual\.positional_embedding$", "class_position"),
        (r"^visual\.ln_pre\.", "norm_pre."),
        (r"^visual\.ln_post\.", "norm."),
        (r"^visual\.transformer\.resblocks\.", "blocks."),
        (r"^(blocks\.\d+)\.attn\.in_proj_(weight|bias)$", r"\1.attn.qkv.\2"),
        (r"^(blocks\.\d+)\.attn\.out_proj\.", r"\1.attn.proj."),
        (r"^(blocks\.\d+)\.ln_([12])\.", r"\1.norm\2."),
        (r"^(blocks\.\d+)\.mlp\.c_fc\.", r"\1.mlp.fc1."),
        (r"^(blocks\.\d+)\.mlp\.c_proj\.", r"\1.mlp.fc2."),
    ),
    left_out=TEXT,
    pixels="clip",
    activation=None,
    prepare=prepare,
)

HUGGING_FACE = Layout(
    name="clip-hf",
    title="CLIP (Hugging Face)",
    marks=(r"^vision_model\.embeddings\.class_embedding$",),
    renames=(
        (r"^vision_model\.embeddings\.patch_embedding\.", "patch_embed.proj."),
        (r"^vision_model\.embeddings\.position_embedding\.weight$", "class_position"),
        (r"^vision_model\.embeddings\.class_embedding$", "cls_token"),
        (r"^vision_model\.pre_layrnorm\.", "norm_pre."),
        (r"^vision_model\.post_layernorm\.", "norm."),
        (r"^vision_model\.head\.", "attn_pool."),
        (r"^vision_model\.encoder\.layers\.", "blocks."),
        (r"\.self_attn\.([qkv])_proj\.", r".attn.\1."),
        (r"\.self_attn\.out_proj\.", ".attn.proj."),
        (r"\.layer_norm([12])\.", r".norm\1."),
    ),
    left_out=TEXT,
    pixels="clip",
    activation=None,
    prepare=prepare,
)

SIGLIP = replace(
    HUGGING_FACE,
    name="siglip",
    title="SigLIP",
    marks=(r"^vision_model\.embeddings\.position_embedding\.weight$",),
    pixels="half",
    activation="gelu_tanh",
)
