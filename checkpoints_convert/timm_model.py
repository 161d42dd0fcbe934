"""The `timm.create_model` call of the class that takes weights under the names `vit.to_timm` gives.

Every size and part is an argument, so that whichever model of a family is named, the call builds
the ViT of the report. timm 1.0.31's classes are meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from checkpoints_convert.tensors import State
from jaxdet.config.keys import Vit
from jaxdet.config.schema import defaults


class NoTimmClassError(ValueError):
    """timm has no class of these weights; the message says for want of what."""


@dataclass(frozen=True)
class TimmModel:
    """A model of timm: the name that it is registered under, and arguments that change it."""

    name: str
    arguments: dict[str, Any]

    def __str__(self) -> str:
        arguments = "".join(f", {name}={value!r}" for name, value in self.arguments.items())
        return f'timm.create_model("{self.name}"{arguments})'


def vit_keys(report: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of config.model.vit that a report gives, and the defaults of the others."""
    start = "model.vit."
    given = {
        key.removeprefix(start): value
        for key, value in report["config"].items()
        if key.startswith(start)
    }
    return {**defaults(Vit), "layer_scale": False, **given}


def is_beit(arrays: State) -> bool:
    """Whether timm's class of these arrays is BEiT's: it has tables of relative positions."""
    return any(path.startswith("backbone.rel_pos_") for path in arrays)


def is_eva(arrays: State, keys: Mapping[str, Any]) -> bool:
    """Whether it is EVA's, which DINOv3 and the Perception Encoder have too."""
    has_gated_norm = keys["mlp_norm"] and keys["activation"] == "swiglu"
    is_particular = keys["rope"] != "none" or keys["qkv_bias"] == "qv" or has_gated_norm
    return is_particular and not is_beit(arrays)


def table_grid(arrays: State) -> int | None:
    """Side of the grid that all of BEiT's tables are made for, None where these differ."""
    rows = {
        tensor.shape[0] for path, tensor in arrays.items() if path.startswith("backbone.rel_pos_")
    }
    return (round(rows.pop() ** 0.5) + 1) // 2 if len(rows) == 1 else None


def timm_model(arrays: State, report: Mapping[str, Any]) -> TimmModel:
    """The model that takes `to_timm(arrays, report)` with strict=True.

    Args:
        arrays: the backbone's, under jaxdet's paths.

    Raises:
        NoTimmClassError: there is none.
    """
    keys = vit_keys(report)
    if "model.vit.heads" not in report["config"]:
        raise NoTimmClassError("nothing says how many attention heads there are")
    if any(".rel_pos." in path for path in arrays):
        raise NoTimmClassError("SAM's has a neck, which jaxdet does not keep")
    position = arrays.get("backbone.pos_embed")
    grid = table_grid(arrays) if is_beit(arrays) else None
    if grid is None and is_beit(arrays):
        raise NoTimmClassError("BEiT's has no tables for windows of another size than the image")
    if position is not None:
        if grid not in (None, position.shape[0]):
            raise NoTimmClassError("its tables and its position embedding are of two grids")
        grid = position.shape[0]
    hidden, width = arrays["backbone.blocks.0.mlp.fc2.kernel"].shape
    common = {
        "img_size": keys["patch"] * (grid or 14),
        "patch_size": keys["patch"],
        "embed_dim": width,
        "depth": keys["depth"],
        "num_heads": keys["heads"],
        "init_values": 1e-5 if keys["layer_scale"] else None,
        "num_classes": 0,
        "global_pool": "",
    }
    if is_beit(arrays):
        return _beit(common, keys, _ratio(hidden, width), position is not None)
    has_class = "backbone.class_token" in arrays
    prefix = {"class_token": has_class}
    if position is not None:
        prefix["no_embed_class"] = not (has_class and report["vit"].get("class_position", False))
    if is_eva(arrays, keys):
        return _eva({**common, **prefix}, keys, _ratio(hidden, width), position is not None)
    return _plain({**common, **prefix}, keys, hidden, position is not None)


def _ratio(hidden: int, width: int) -> float:
    """The ratio that timm makes this hidden width of, cutting what is behind the point."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise NoTimmClassError(what)


def _plain(
    common: dict[str, Any], keys: Mapping[str, Any], hidden: int, has_position: bool
) -> TimmModel:
    """timm's VisionTransformer."""
    is_gated, is_rms = keys["activation"] == "swiglu", keys["norm"] == "rms"
    eps = keys["norm_eps"]
    _require(
        eps in ((1e-5,) if is_rms else (1e-6, 1e-5)), f"no model has norms with norm_eps={eps}"
    )
    _require(not is_rms or is_gated, "none with RMSNorm lacks a gated MLP")
    _require(is_rms or not keys["patch_norm"], "none has a LayerNorm of the patches")
    _require(not keys["post_norm"] or not is_gated, "none has norms behind a gated MLP")
    width = common["embed_dim"]
    arguments = {
        **common,
        "mlp_ratio": _ratio(2 * hidden if is_gated and not is_rms else hidden, width),
        "qkv_bias": keys["qkv_bias"] == "qkv",
        "proj_bias": keys["bias"],
        "qk_norm": keys["qk_norm"],
        "scale_attn_norm": keys["attention_norm"],
        "scale_mlp_norm": keys["mlp_norm"],
        "pos_embed": "learn" if has_position else "none",
        "reg_tokens": keys["registers"],
        "pre_norm": keys["pre_norm"],
        "final_norm": keys["final_norm"],
        "fc_norm": False,
    }
    if is_rms:
        if not keys["patch_norm"]:
            arguments["embed_norm_layer"] = None
        return TimmModel("aimv2_large_patch14_224", arguments)
    if is_gated:
        _require(eps == 1e-6, f"none with a packed gated MLP has norm_eps={eps}")
        return TimmModel("vit_giant_patch14_dinov2", arguments)
    if keys["activation"] != "gelu":
        arguments["act_layer"] = keys["activation"]
    if keys["post_norm"]:
        _require(eps == 1e-6, f"none with norms behind the branches has norm_eps={eps}")
        return TimmModel("vit_base_patch16_rpn_224", arguments)
    name = "vit_base_patch16_clip_224" if eps == 1e-5 else "vit_base_patch16_224"
    return TimmModel(name, arguments)


ROPE = {
    "none": {"use_rot_pos_emb": False},
    "dinov3": {"rope_type": "dinov3", "rope_rotate_half": True},
    "eva02": {"rope_type": "cat", "rope_grid_offset": 0.0, "rope_grid_indexing": "ij"},
    "pe": {"rope_type": "cat", "rope_grid_offset": 1.0, "rope_grid_indexing": "xy"},
}


def _eva(
    common: dict[str, Any], keys: Mapping[str, Any], ratio: float, has_position: bool
) -> TimmModel:
    """timm's Eva."""
    rope, eps, is_gated = keys["rope"], keys["norm_eps"], keys["activation"] == "swiglu"
    _require(eps in (1e-6, 1e-5), f"no model has norms with norm_eps={eps}")
    _require(keys["norm"] == "layer" and not keys["patch_norm"], "EVA's has other norms")
    _require(is_gated or keys["activation"] == "gelu", f"EVA's has no {keys['activation']}")
    _require(keys["bias"] and not keys["post_norm"], "EVA's has biases, and norms in front")
    arguments = {
        **common,
        "mlp_ratio": ratio,
        "swiglu_mlp": is_gated,
        "swiglu_align_to": 1 if is_gated and rope == "dinov3" else 0,  # gate and value apart
        "scale_mlp": keys["mlp_norm"],
        "scale_attn_inner": keys["attention_norm"],
        "qkv_bias": keys["qkv_bias"] != "none",
        "qkv_fused": not keys["mlp_norm"],
        "qk_norm": keys["qk_norm"],
        "attn_type": "rope" if keys["qkv_bias"] == "qkv" else "eva",
        "num_reg_tokens": keys["registers"],
        "use_abs_pos_emb": has_position,
        "use_rot_pos_emb": True,
        "use_pre_transformer_norm": keys["pre_norm"],
        "use_post_transformer_norm": keys["final_norm"],
        "use_fc_norm": False,
        **ROPE[rope],
    }
    if rope != "none":
        arguments["rope_temperature"] = keys["rope_base"]
    if rope in ("eva02", "pe"):
        arguments["ref_feat_shape"] = (keys["rope_grid"],) * 2
    if rope == "dinov3":
        return TimmModel("vit_small_patch16_dinov3", arguments)
    name = "vit_pe_spatial_base_patch16_512" if eps == 1e-5 else "eva02_tiny_patch14_224"
    return TimmModel(name, arguments)


def _beit(
    common: dict[str, Any], keys: Mapping[str, Any], ratio: float, has_position: bool
) -> TimmModel:
    """timm's Beit."""
    _require(keys["norm"] == "layer" and keys["norm_eps"] == 1e-6, "BEiT's has other norms")
    _require(keys["final_norm"], "BEiT's ends in a norm, which these weights lack")
    _require(keys["activation"] == "gelu" and keys["bias"], "BEiT's has another MLP")
    _require(keys["rope"] == "none", "BEiT's has no rotary positions")
    _require(keys["qkv_bias"] != "qkv", "BEiT's has no bias of the keys")
    has_parts = any(keys[part] for part in ("qk_norm", "attention_norm", "mlp_norm", "registers"))
    has_parts |= any(keys[part] for part in ("pre_norm", "patch_norm", "post_norm"))
    _require(not has_parts, "BEiT's has no further norms and no registers")
    arguments = {
        **common,
        "mlp_ratio": ratio,
        "qkv_bias": keys["qkv_bias"] == "qv",
        "use_abs_pos_emb": has_position,
        "use_rel_pos_bias": True,
        "use_shared_rel_pos_bias": False,
        "use_fc_norm": False,
    }
    return TimmModel("beit_base_patch16_224", arguments)
