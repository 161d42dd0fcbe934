"""The ViTs of torchvision and of MMPretrain, whose names are their own."""

from __future__ import annotations

from checkpoints_convert.layout import Layout

TORCHVISION = Layout(
    name="torchvision",
    title="torchvision",
    marks=(r"^conv_proj\.weight$", r"^encoder\.layers\.encoder_layer_0\."),
    renames=(
        (r"^conv_proj\.", "patch_embed.proj."),
        (r"^class_token$", "cls_token"),
        (r"^encoder\.pos_embedding$", "pos_embed"),
        (r"^encoder\.ln\.", "norm."),
        (r"^heads\.", "head."),
        (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
        (r"^(blocks\.\d+)\.ln_([12])\.", r"\1.norm\2."),
        (r"\.self_attention\.in_proj_(weight|bias)$", r".attn.qkv.\1"),
        (r"\.self_attention\.out_proj\.", ".attn.proj."),
        # Since 0.14 by their place in a list, before by name.
        (r"\.mlp\.(0|linear_1)\.", ".mlp.fc1."),
        (r"\.mlp\.(3|linear_2)\.", ".mlp.fc2."),
    ),
)


MMPRETRAIN = Layout(
    name="mmpretrain",
    title="MMPretrain",
    marks=(r"(^|\.)layers\.0\.ln1\.weight$", r"(^|\.)patch_embed\.projection\.weight$"),
    renames=(
        (r"^backbone\.", ""),
        (r"^layers\.", "blocks."),
        (r"^ln1\.", "norm."),
        (r"^pre_norm\.", "norm_pre."),
        (r"^patch_embed\.projection\.", "patch_embed.proj."),
        (r"^(blocks\.\d+)\.ln([12])\.", r"\1.norm\2."),
        (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
        (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
        (r"\.ffn\.(w12|w3)\.", r".mlp.\1."),
        (r"\.attn\.gamma1\.weight$", ".ls1.gamma"),
        (r"\.ffn\.gamma2\.weight$", ".ls2.gamma"),
    ),
    left_out=(
        (r"^(head|neck|target_generator|data_preprocessor)\.", "a head of the pre-training"),
    ),
    pixels=None,
    heads={1280: 16},
)
