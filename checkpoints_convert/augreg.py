"""The JAX archives of github.com/google-research/vision_transformer (AugReg and its kin) and of
github.com/google-research/big_vision, whose activation is the approximate GELU.
"""

from __future__ import annotations

import re

from checkpoints_convert.clip import join_qkv, naflex_projection
from checkpoints_convert.layout import Layout
from checkpoints_convert.tensors import State, Tensor


def prepare(state: State) -> State:
    """Kernels as PyTorch lays them out: outputs first, heads merged into the width."""
    state = _unstacked(state)
    state = join_qkv({name: _torch_layout(name, tensor) for name, tensor in state.items()})
    position = state.get("pos_embed")
    if position is not None and position.shape[0] > 1 and len(position.shape) == 3:  # NaFlex's map
        state["pos_embed"] = position.reshape(1, *position.shape)
    return state


def heads_of(state: State) -> int | None:
    """The attention heads, which the kernels' shapes say."""
    for name, tensor in state.items():
        if name.endswith("/query/kernel") and len(tensor.shape) >= 3:
            return tensor.shape[-2]
    return None


def _unstacked(state: State) -> State:
    """Blocks that were trained under `nn.scan`, which lie in one tensor, as one each."""
    result = {}
    for name, tensor in state.items():
        if not name.startswith("stacked."):
            result[name] = tensor
            continue
        for i in range(tensor.shape[0]):
            part = tensor.rows(i, i + 1).reshape(*tensor.shape[1:])
            result[name.replace("stacked.", f"blocks.{i}.")] = part
    return result


def _torch_layout(name: str, tensor: Tensor) -> Tensor:
    if name == "patch_embed.proj.weight" and len(tensor.shape) == 2:
        return naflex_projection(tensor.transpose(1, 0))
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


LEAVES = ((r"/(kernel|scale)$", ".weight"), (r"/bias$", ".bias"))
PROJECTIONS = (
    (r"MultiHeadDotProductAttention_[01]/([qkv])(uery|ey|alue)/", r"attn.\1/"),
    (r"MultiHeadDotProductAttention_[01]/out/", "attn.proj/"),
    (r"MlpBlock_[03]/Dense_0/", "mlp.fc1/"),
    (r"MlpBlock_[03]/Dense_1/", "mlp.fc2/"),
)

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
        *PROJECTIONS,
        *LEAVES,
    ),
    pixels="half",
    prepare=prepare,
    heads_of=heads_of,
)

BIG_VISION = Layout(
    name="big-vision",
    title="big_vision (JAX)",
    marks=(r"^(params/)?(img/)?pos_embedding$", r"^(params/)?(img/)?embedding/kernel$"),
    renames=(
        (r"^params/", ""),
        (r"^img/", ""),
        (r"^MAPHead_0/", "attn_pool."),
        (r"^embedding/", "patch_embed.proj/"),
        (r"^cls$", "cls_token"),
        (r"^pos_embedding$", "pos_embed"),
        (r"^Transformer/encoder_norm/", "norm/"),
        (r"^Transformer/encoderblock_(\d+)/", r"blocks.\1."),
        (r"^Transformer/encoderblock/", "stacked."),
        (r"^((?:blocks\.\d+|stacked)\.)LayerNorm_0/", r"\1norm1/"),
        (r"^((?:blocks\.\d+|stacked)\.)LayerNorm_1/", r"\1norm2/"),
        *PROJECTIONS,
        *LEAVES,
    ),
    left_out=(
        (r"^txt/", "the text tower"),
        (r"^(t|b)$", "joins towers"),
        (r"^opt/", "the optimizer's state"),
        (r"^(head|pre_logits)[./]", "a head of the pre-training"),
    ),
    pixels="half",
    activation="gelu_tanh",
    prepare=prepare,
    heads_of=heads_of,
)
