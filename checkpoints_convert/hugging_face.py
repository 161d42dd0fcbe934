"""The ViTs of the transformers package, as its classes save them.

Their files name neither the number of heads nor the pixels: `config.json` and
`preprocessor_config.json` beside them do.
"""

from __future__ import annotations

from dataclasses import replace

from checkpoints_convert import clip
from checkpoints_convert.clip import join_qkv
from checkpoints_convert.layout import Layout
from checkpoints_convert.tensors import State, concatenate

RENAMES = (
    (
        r"^outside/decoder\.decoder_encoder\.layer\.(\d+)\.|^outside/decoder\.decoder_layers\.(\d+)\.",
        r"decoder_blocks.\1\2.",
    ),
    (r"^outside/decoder\.(decoder_\w+)", r"\1"),
    (r"^outside/decoder\.mask_token$", "decoder_mask_token"),
    (r"^(?:model\.)?(?:encoder\.)?layers?\.(\d+)\.", r"blocks.\1."),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.mask_token$", "mask_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.(projection\.)?", "patch_embed.proj."),
    (r"^encoder\.relative_position_bias\.", "rel_pos_bias."),
    (r"(?:\.attention\.attention)?\.relative_position_bias\.", ".attn."),
    (r"\.attention\.(?:attention\.)?(q|k|v)(?:uery|ey|alue|_proj)\.", r".attn.\1."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.|\.mlp\.up_proj\.", ".mlp.fc1."),
    (r"^((?:decoder_)?blocks\.\d+)\.output\.dense\.|\.mlp\.down_proj\.", r"\1.mlp.fc2."),
    (r"\.mlp\.gate_proj\.", ".mlp.gate."),
    (r"\.mlp\.weights_in\.", ".mlp.w12."),
    (r"\.mlp\.weights_out\.", ".mlp.w3."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.lambda_([12])$", r".gamma_\1"),
    (r"^layernorm\.", "norm."),
)

LEFT_OUT = (
    (r"^pooler\.", "a head of the pre-training"),
    (r"^(classifier|cls_classifier|distillation_classifier|lm_head)\.", "a head"),
    (r"^decoder_", "the decoder of the pre-training"),
)


def prepare(state: State) -> State:
    """Joins query, key and value, and the two inner layers of a gated MLP."""
    joined = dict(state)
    for name in state:
        if ".mlp.gate." in name:
            value = name.replace(".mlp.gate.", ".mlp.fc1.")
            if value in joined:
                joined[value] = concatenate([joined.pop(name), joined[value]])
    return join_qkv(joined)


WRAPPED = (r"^(model|encoder)\.embeddings\.",)
"""Names whose first part is a wrapper, though the blocks alone may have it without one."""

_VIT = Layout(
    name="vit-hf",
    title="ViT (transformers)",
    # As saved, and as the classes of transformers 5 have it in memory.
    marks=(
        r"^(encoder\.layer\.0\.attention\.attention\.query"
        r"|(encoder\.layer|layers)\.0\.attention\.q_proj)\.weight$",
    ),
    renames=RENAMES,
    left_out=LEFT_OUT,
    pixels=None,
    prepare=prepare,
    excludes=WRAPPED,
)

DINOV3 = replace(
    _VIT,
    name="dinov3-hf",
    title="DINOv3 (transformers)",
    marks=(r"^(model\.)?layer\.0\.attention\.o_proj\.weight$", r"layer_scale1\.lambda1$"),
    pixels="imagenet",
    has_absolute_position=False,
    vit={"rope": "dinov3", "rope_base": 100.0, "norm_eps": 1e-5},
    excludes=(r"position_embeddings$", *WRAPPED),
)

DINOV2 = replace(
    _VIT,
    name="dinov2-hf",
    title="DINOv2 (transformers)",
    marks=(*_VIT.marks, r"layer_scale1\.lambda1$"),
    pixels="imagenet",
)

BEIT = replace(
    _VIT,
    name="beit-hf",
    title="BEiT, data2vec (transformers)",
    marks=(*_VIT.marks, r"lambda_1$"),
    has_absolute_position=False,
    # Of a masked image model, the last norm is outside of what has the blocks.
    renames=((r"^outside/layernorm\.", "norm."), *RENAMES),
)

DEIT = replace(
    _VIT,
    name="deit-hf",
    title="DeiT (transformers)",
    marks=(*_VIT.marks, r"^embeddings\.distillation_token$"),
    pixels="imagenet",
)

MAE = replace(
    _VIT,
    name="mae-hf",
    title="MAE (transformers)",
    marks=(*_VIT.marks, r"decoder\.decoder_embed\.weight$"),
    pixels="imagenet",
    heads={1280: 16},
)

DINOV2_REGISTERS = replace(
    DINOV2,
    name="dinov2-registers-hf",
    title="DINOv2 with registers (transformers)",
    marks=(*DINOV2.marks, r"^embeddings\.register_tokens$"),
    resize="antialias",
)

AIMV2 = Layout(
    name="aimv2-hf",
    title="AIMv2 (transformers)",
    marks=(rf"{clip.VISION}rms_norm\.weight$", r"encoder\.layers\.0\.ffn\.gate_proj\.weight$"),
    renames=(
        (r"^vision_model\.", ""),
        (r"^embeddings\.patch_embed\.", "patch_embed.proj."),
        (r"^embeddings\.rms_norm\.", "patch_embed.norm."),
        (r"^embeddings\.position_embedding\.weight$", "class_position"),
        (r"^rms_norm\.", "norm."),
        (r"^encoder\.layers\.", "blocks."),
        (r"\.attention\.([qkv])_proj\.", r".attn.\1."),
        (r"\.attention\.out_proj\.", ".attn.proj."),
        (r"\.rms_norm([12])\.", r".norm\1."),
        (r"\.ffn\.gate_proj\.", ".mlp.gate."),
        (r"\.ffn\.up_proj\.", ".mlp.fc1."),
        (r"\.ffn\.down_proj\.", ".mlp.fc2."),
    ),
    left_out=clip.TEXT,
    pixels="clip",
    prepare=lambda state: clip.prepare(prepare(state)),
    vit={"norm_eps": 1e-5},
    heads={1024: 8, 1536: 12, 2048: 16, 3072: 24},
)

VITDET = Layout(
    name="vitdet-hf",
    title="ViTDet's backbone (transformers)",
    marks=(r"^embeddings\.projection\.weight$", r"^encoder\.layer\.0\.attention\.qkv\.weight$"),
    renames=(
        (r"^embeddings\.projection\.", "patch_embed.proj."),
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        (r"^encoder\.layer\.", "blocks."),
        (r"\.attention\.", ".attn."),
    ),
    pixels=None,
    heads={1280: 16},
)

LAYOUTS = (
    *(DINOV3, DINOV2, DINOV2_REGISTERS, BEIT, DEIT, MAE, AIMV2, VITDET),
    replace(_VIT, is_fallback=True),
)
