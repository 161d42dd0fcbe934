"""The JAX archives of github.com/google-research/vision_transformer (AugReg and its kin)."""

from __future__ import annotations

import re

from checkpoints_convert.clip import join_qkv
from checkpoints_convert.layout import Layout
from checkpoints_convert.tensors import State, Tensor


def prepare(state: State) -> State:
    """Kernels as PyTorch lays them out: outputs first, heads merged into the width."""
    return join_qkv({name: _torch_layout(name, tensor) for name, tensor in state.items()})


def _torch_layout(name: str, tensor: Tensor) -> Tensor:
    if name == "patch_embed.proj.weight" and len(tensor.shape) == 4:
        return tensor.transpose(3, 2, 0, 1)
    if re.search(r"attn\.[qkv]\.weight$", name) and len(tensor.shape) == 3:
        width, heads, channels = tensor.shape
        return tensor.reshape(width, heads * channels).transpose(1, 0)
    if re.search(r"attn\.[qkv]\.bias$", name) and len(tensor.shape) == 2:
        return tensor.reshape(tensor.size)
    if name.endswith("attn.proj.weight") and len(tensor.shape) == 3:
        heads, channels, width = tensor.shape
        return tensor.reshape(heads * channels, width).transpose(1, 0)
    if re.search(r"mlp\.fc[12]\.weight$", name) and len(tensor.shape) == 2:
        return tensor.transpose(1, 0)
    return tensor


LAYOUT = Layout(
    name="augreg",
    title="AugReg (JAX)",
    marks=(r"^Transformer/posembed_input/pos_embedding$",),
    renames=(
        (r"^embedding/", "patch_embed.proj/"),
        (r"^cls$", "cls_token"),
        (r"^Transformer/posembed_input/pos_embedding$", "pos_embed"),
        (r"^Transformer/encoder_norm/", "norm/"),
        (r"^Transformer/encoderblock_(\d+)/", r"blocks.\1."),
        (r"LayerNorm_0/", "norm1/"),
        (r"LayerNorm_2/", "norm2/"),
        (r"MultiHeadDotProductAttention_1/([qkv])(uery|ey|alue)/", r"attn.\1/"),
        (r"MultiHeadDotProductAttention_1/out/", "attn.proj/"),
        (r"MlpBlock_3/Dense_0/", "mlp.fc1/"),
        (r"MlpBlock_3/Dense_1/", "mlp.fc2/"),
        (r"/(kernel|scale)$", ".weight"),
        (r"/bias$", ".bias"),
    ),
    pixels="half",
    prepare=prepare,
)
