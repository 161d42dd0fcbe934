"""A plain ViT under timm's names into arrays under jaxdet's paths, and back.

Every layout is first renamed to what timm calls the tensors of a ViT
(`blocks.0.attn.qkv.weight`), since most pre-trainings descend from its code.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

import numpy as np

from checkpoints_convert.conversion_plan import ConversionPlan, Options, TensorReader
from checkpoints_convert.relative_position import plan_relative_position, resize_bicubic
from checkpoints_convert.tensors import State, Tensor
from jaxdet.errors import UserError

LEFT_OUT = (
    (r"^cls_token$", "the detector has no class token"),
    (r"^(dist_token|reg_token|register_tokens)$", "the detector has no extra tokens"),
    (r"^(norm|fc_norm)\.", "the detector takes the blocks' outputs, before the final norm"),
    (r"^(head|head_dist|pre_logits|attn_pool)\.", "a head of the pre-training"),
    (r"^(mask_token|masked_embed)$", "stands for masked patches in the pre-training"),
    (r"relative_position_index$", "an index that follows from the grid"),
)
"""What a detector's backbone never takes, as patterns of timm's names with the reason."""


@dataclass(frozen=True)
class EncoderShape:
    """What a file's tensors say of its ViT.

    Attributes:
        patch: side of a patch in pixels.
        hidden: channels of the MLP's second layer; `inner` of its first's outputs.
        mlp: the names of the MLP's layers.
        gammas: the names of the layer scales, none where the ViT has no such.
    """

    width: int
    depth: int
    patch: int
    inner: int
    hidden: int
    activation: str
    qkv_bias: str
    pre_norm: bool
    mlp: tuple[str, str]
    gammas: tuple[str, ...]


def plan_backbone(reader: TensorReader, options: Options, activation: str) -> ConversionPlan:
    """The backbone's arrays.

    Args:
        reader: tensors under timm's names.
        activation: the MLP's, where the tensors do not imply another.

    Raises:
        UserError: a tensor is missing or of a wrong shape, or the ViT is one jaxdet does not have.
    """
    vit = _encoder_shape(reader, activation)
    plan = ConversionPlan()
    _plan_embedding(plan, reader, options, vit)
    heads = plan_relative_position(plan, reader, options, vit.depth)
    if vit.pre_norm:
        plan.arrays |= _norm(reader, "backbone.norm_pre", "norm_pre", vit.width)
    for i in range(vit.depth):
        plan.arrays |= _block(reader, vit, i)
    patch = options.patch or vit.patch
    plan.keys |= {
        "model.vit.width": vit.width,
        "model.vit.depth": vit.depth,
        "model.vit.mlp_ratio": _mlp_ratio(vit),
        "model.vit.patch": patch,
        "model.vit.qkv_bias": vit.qkv_bias,
        "model.vit.layer_scale": bool(vit.gammas),
        "model.vit.activation": vit.activation,
        "model.vit.pre_norm": vit.pre_norm,
    }
    if heads:
        plan.keys["model.vit.heads"] = heads
    else:
        plan.notes.append("the number of heads is not in the file; the config's is not checked")
    plan.size = {
        "width": vit.width,
        "depth": vit.depth,
        "heads": heads,
        "mlp_hidden": vit.hidden,
        "patch": patch,
        **plan.size,
    }
    return plan


def _encoder_shape(reader: TensorReader, activation: str) -> EncoderShape:
    width, channels, patch, patch_width = reader.shape("patch_embed.proj.weight", 4)
    if channels != 3 or patch != patch_width:
        raise UserError(
            f"patch_embed.proj.weight has the shape {(width, channels, patch, patch_width)}; "
            "jaxdet takes square patches of 3 channels"
        )
    mlp = ("mlp.w12", "mlp.w3") if "blocks.0.mlp.w12.weight" in reader else ("mlp.fc1", "mlp.fc2")
    inner = reader.shape(f"blocks.0.{mlp[0]}.weight", 2)[0]
    hidden = reader.shape(f"blocks.0.{mlp[1]}.weight", 2)[1]
    scales = (("gamma_1", "gamma_2"), ("ls1.gamma", "ls2.gamma"))
    return EncoderShape(
        width=width,
        depth=_depth(reader),
        patch=patch,
        inner=inner,
        hidden=hidden,
        activation="swiglu" if inner == 2 * hidden else activation,
        qkv_bias=_qkv_bias(reader),
        pre_norm="norm_pre.weight" in reader,
        mlp=mlp,
        gammas=next((names for names in scales if f"blocks.0.{names[0]}" in reader), ()),
    )


def _depth(reader: TensorReader) -> int:
    indices = {int(match[1]) for name in reader if (match := re.match(r"blocks\.(\d+)\.", name))}
    depth = next(i for i in itertools.count() if i not in indices)
    if depth <= max(indices, default=0):
        raise UserError(f"the file lacks block {depth}; it is incomplete: download it again")
    return depth


def _qkv_bias(reader: TensorReader) -> str:
    if "blocks.0.attn.q_bias" in reader:
        return "qv"
    return "qkv" if "blocks.0.attn.qkv.bias" in reader else "none"


def _block(reader: TensorReader, vit: EncoderShape, i: int) -> State:
    """The arrays of block i."""
    name, path, width = f"blocks.{i}", f"backbone.blocks.{i}", vit.width

    def linear(ours: str, theirs: str, inputs: int, outputs: int, bias: bool = True) -> State:
        weight = reader.expect(f"{name}.{theirs}.weight", (outputs, inputs))
        arrays = {f"{path}.{ours}.kernel": weight.transpose(1, 0)}
        if bias:
            arrays[f"{path}.{ours}.bias"] = reader.expect(f"{name}.{theirs}.bias", (outputs,))
        return arrays

    vectors = dict(zip(("gamma1", "gamma2"), vit.gammas, strict=False))
    if vit.qkv_bias == "qv":
        vectors |= {bias: bias for bias in ("attn.q_bias", "attn.v_bias")}
    return {
        **_norm(reader, f"{path}.norm1", f"{name}.norm1", width),
        **linear("attn.qkv", "attn.qkv", width, 3 * width, vit.qkv_bias == "qkv"),
        **linear("attn.proj", "attn.proj", width, width),
        **_norm(reader, f"{path}.norm2", f"{name}.norm2", width),
        **linear("mlp.fc1", vit.mlp[0], width, vit.inner),
        **linear("mlp.fc2", vit.mlp[1], vit.hidden, width),
        **{
            f"{path}.{ours}": reader.expect(f"{name}.{theirs}", (width,))
            for ours, theirs in vectors.items()
        },
    }


def _norm(reader: TensorReader, path: str, name: str, width: int) -> State:
    return {
        f"{path}.scale": reader.expect(f"{name}.weight", (width,)),
        f"{path}.bias": reader.expect(f"{name}.bias", (width,)),
    }


def _mlp_ratio(vit: EncoderShape) -> float:
    """The ratio that gives this hidden width; SwiGLU takes two thirds of it, in steps of 8."""
    if vit.activation != "swiglu":
        return vit.hidden / vit.width
    for ratio in (4.0, 1.5 * vit.hidden / vit.width):
        if swiglu_hidden(vit.width, ratio) == vit.hidden:
            return ratio
    raise UserError(
        f"a SwiGLU of {vit.hidden} hidden channels at width {vit.width} is none jaxdet has"
    )


def swiglu_hidden(width: int, ratio: float) -> int:
    """Hidden channels of DINOv2's SwiGLU for an MLP ratio."""
    return (int(int(width * ratio) * 2 / 3) + 7) // 8 * 8


def _plan_embedding(
    plan: ConversionPlan, reader: TensorReader, options: Options, vit: EncoderShape
) -> None:
    """The patch projection and the absolute position embedding."""
    width, patch, new_patch = vit.width, vit.patch, options.patch or vit.patch
    weight = reader.expect("patch_embed.proj.weight", (width, 3, patch, patch))
    if new_patch != patch:
        weight = _resample_patches(weight, new_patch)
        plan.notes.append(f"patches resampled from {patch} to {new_patch} pixels (bicubic)")
    kernel = weight.transpose(2, 3, 1, 0).reshape(3 * new_patch**2, width)
    plan.arrays["backbone.patch_embed.kernel"] = kernel
    plan.arrays["backbone.patch_embed.bias"] = reader.expect("patch_embed.proj.bias", (width,))
    if "pos_embed" not in reader:
        plan.notes.append("the file has no absolute position embedding")
        return
    _, count, _ = reader.shape("pos_embed", 3)
    grid, extra = _grid(count)
    position = _without_first(reader.expect("pos_embed", (1, count, width)), extra, grid)
    if new_patch != patch:
        # The grid that an image of the pre-training's size has in the new patches.
        new_grid = round(grid * patch / new_patch)
        position = _resize_position(position, new_grid)
        plan.notes.append(f"position embedding resampled from {grid} to {new_grid} (bicubic)")
        grid = new_grid
    plan.arrays["backbone.pos_embed"] = position
    plan.size["position_grid"] = grid


def _grid(positions: int) -> tuple[int, int]:
    """Side of the square grid of an embedding, and how many other tokens come first."""
    for extra in (1, 0, 2, 5):
        side = round(max(positions - extra, 0) ** 0.5)
        if side and side * side == positions - extra:
            return side, extra
    raise UserError(
        f"pos_embed has {positions} positions, which are no square grid with a class token; "
        "jaxdet takes square pre-training images"
    )


def _without_first(position: Tensor, extra: int, grid: int) -> Tensor:
    shape = (grid, grid, position.shape[2])
    return position.map(shape, lambda values: values[0, extra:].reshape(shape))


def _resize_position(position: Tensor, grid: int) -> Tensor:
    shape = (grid, grid, position.shape[2])
    return position.map(shape, lambda values: resize_bicubic(values, (grid, grid)))


def _resample_patches(weight: Tensor, patch: int) -> Tensor:
    """Resamples [width, 3, p, p] kernels as ViTDet does for its ViT-H."""
    width, channels, side, _ = weight.shape

    def values(kernels: np.ndarray) -> np.ndarray:
        planes = kernels.reshape(-1, side, side).transpose(1, 2, 0)
        resized = resize_bicubic(planes, (patch, patch))
        return resized.transpose(2, 0, 1).reshape(width, channels, patch, patch)

    return weight.map((width, channels, patch, patch), values)


def to_timm(arrays: State) -> State:
    """The backbone's arrays under jaxdet's paths as tensors under timm's names.

    Tables of relative positions that timm has no name for keep jaxdet's.
    """
    state = {}
    for path, array in arrays.items():
        name = path.removeprefix("backbone.")
        if name == "patch_embed.kernel":
            inputs, width = array.shape
            side = round((inputs / 3) ** 0.5)
            kernel = array.reshape(side, side, 3, width).transpose(3, 2, 0, 1)
            state["patch_embed.proj.weight"] = kernel
            continue
        if name == "pos_embed":
            height, columns, width = array.shape
            state[name] = array.reshape(1, height * columns, width)
            continue
        if name.endswith(".kernel"):
            array = array.transpose(1, 0)
        for pattern, replacement in TO_TIMM:
            name = re.sub(pattern, replacement, name)
        state[name] = array
    return state


TO_TIMM = (
    (r"^patch_embed\.bias$", "patch_embed.proj.bias"),
    (r"\.(kernel|scale)$", ".weight"),
    (r"\.gamma([12])$", r".ls\1.gamma"),
    (r"\.rel_pos\.height$", ".rel_pos_h"),
    (r"\.rel_pos\.width$", ".rel_pos_w"),
)
