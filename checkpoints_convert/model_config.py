"""What the `config.json` beside a file of weights says of the model: transformers' or timm's."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxdet.errors import UserError

LARGEST = 2**20
"""Bytes of such a file at most."""

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "swiglu",
    "swish": "swiglu",
}
"""transformers' names and jaxdet's; "silu" stands only where there is a gate."""


@dataclass(frozen=True)
class ModelConfig:
    """What is known of a model beside its tensors; None where the file does not say.

    Attributes:
        path: the file it was read from.
        kind: transformers' "model_type" ("dinov3_vit") or timm's architecture.
        width, heads: of the ViT.
        activation: of the MLP, one of jaxdet's names.
        norm_eps: of the norms.
        rope_base: of rotary positions.
        post_norm: whether norms come behind the branches.
        window, global_blocks: of a ViT with windowed blocks.
        pixel_mean, pixel_std: per channel, of pixels between 0 and 255.
    """

    path: Path
    kind: str
    width: int | None = None
    heads: int | None = None
    activation: str | None = None
    norm_eps: float | None = None
    rope_base: float | None = None
    post_norm: bool = False
    window: int | None = None
    global_blocks: tuple[int, ...] | None = None
    pixel_mean: tuple[float, ...] | None = None
    pixel_std: tuple[float, ...] | None = None


def read_model_config(path: Path) -> ModelConfig | None:
    """Reads a `config.json`, and the `preprocessor_config.json` beside it; None where it is of
    neither transformers nor timm.

    Raises:
        UserError: it is not JSON, or a value is of a wrong type or out of bounds.
    """
    content = _read_json(path)
    architecture = content.get("architecture")
    if isinstance(architecture, str):
        return _timm(path, architecture, content)
    vision = content.get("vision_config")
    if isinstance(vision, dict):
        content = {"model_type": content.get("model_type"), **vision}
    kind = content.get("model_type")
    if not isinstance(kind, str):
        return None
    pixels = _preprocessor(path.with_name("preprocessor_config.json"))
    eps = next((key for key in ("layer_norm_eps", "rms_norm_eps") if key in content), "")
    base = "rope_theta"
    if isinstance(content.get("rope_parameters"), dict):
        content = {**content, **content["rope_parameters"]}
    return ModelConfig(
        path=path,
        kind=kind,
        width=_whole(path, content, "hidden_size"),
        heads=_whole(path, content, "num_attention_heads"),
        activation=_activation(path, content.get("hidden_act")),
        norm_eps=_number(path, content, eps, 1.0),
        rope_base=_number(path, content, base, 1e9),
        window=_whole(path, content, "window_size"),
        global_blocks=_global_blocks(path, content),
        **{
            key: value or _pixels(path, content, f"norm_{key[6:]}") for key, value in pixels.items()
        },
    )


def _timm(path: Path, architecture: str, content: Mapping[str, Any]) -> ModelConfig:
    trained = content.get("pretrained_cfg")
    trained = trained if isinstance(trained, dict) else content
    width = _whole(path, content, "num_features")
    arguments = content.get("model_args")
    arguments = arguments if isinstance(arguments, dict) else {}
    return ModelConfig(
        path=path,
        kind=architecture,
        width=width,
        heads=_whole(path, arguments, "num_heads") or timm_heads(architecture, width),
        activation=_timm_activation(architecture),
        post_norm="_rpn_" in architecture or "eva02_enormous" in architecture,
        pixel_mean=_pixels(path, trained, "mean"),
        pixel_std=_pixels(path, trained, "std"),
    )


TIMM_HEADS = (
    (r"aimv2_", lambda width: width // 128),
    (r"dinov3_huge|huge.*dinov3", lambda width: width // 64),
    (r"7b.*dinov3|dinov3_7b", lambda width: width // 128),
    (r"giant.*(dinov2|radio|tipsv2|lingbot)|dinov2_giant", lambda width: width // 64),
    (r"vit_base_patch16_gap_", lambda width: 16),
    (r"^test_vit", lambda width: width // 32),
    (r"huge|giant|gigantic|enormous|so400m", lambda width: 16),
)
"""Heads of timm's architectures whose heads do not have 64 channels, by the width."""


TIMM_TANH = re.compile(
    r"(so400m_patch16|giantopt).*siglip|base_patch32_siglip|large_patch16_siglip_(gap_)?512"
)
"""timm's architectures whose GELU is the approximation by tanh."""


def _timm_activation(architecture: str) -> str:
    """Of the MLP where the tensors do not show a gate."""
    if "quickgelu" in architecture:
        return "quick_gelu"
    return "gelu_tanh" if TIMM_TANH.search(architecture) else "gelu"


def timm_heads(architecture: str, width: int | None) -> int | None:
    """The attention heads of an architecture of timm, None where its width is not known."""
    if width is None:
        return None
    for pattern, heads in TIMM_HEADS:
        if re.search(pattern, architecture):
            return heads(width)
    return width // 64 if width % 64 == 0 else None


def _preprocessor(path: Path) -> dict[str, tuple[float, ...] | None]:
    content = _read_json(path) if path.is_file() else {}
    return {
        "pixel_mean": _pixels(path, content, "image_mean"),
        "pixel_std": _pixels(path, content, "image_std"),
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it has more than {LARGEST} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{path} cannot be read ({reason}); download it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object; download it again")
    return content


def _whole(path: Path, content: Mapping[str, Any], key: str) -> int | None:
    value = content.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 2**20:
        raise UserError(f"{path}: {key} must be a whole number up to {2**20}; download it again")
    return value or None


def _number(path: Path, content: Mapping[str, Any], key: str, most: float) -> float | None:
    value = content.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise UserError(f"{path}: {key} must lie between 0 and {most:g}; download it again")
    return float(value)


def _pixels(path: Path, content: Mapping[str, Any], key: str) -> tuple[float, ...] | None:
    values = content.get(key)
    if values is None:
        return None
    if (
        not isinstance(values, list)
        or len(values) != 3
        or not all(isinstance(value, int | float) and 0 <= value <= 1 for value in values)
        or not all(map(math.isfinite, values))
    ):
        raise UserError(f"{path}: {key} must be three numbers between 0 and 1; download it again")
    return tuple(255 * float(value) for value in values)


def _activation(path: Path, name: Any) -> str | None:
    if name is None:
        return None
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise UserError(
            f"{path}: hidden_act {str(name)[:40]!r} is none jaxdet has ({', '.join(ACTIVATIONS)}); "
            "the model cannot be converted"
        )
    return ACTIVATIONS[name]


def _global_blocks(path: Path, content: Mapping[str, Any]) -> tuple[int, ...] | None:
    """SAM's list of blocks that attend globally, or those not in ViTDet's of the others."""
    windowed = _blocks(path, "window_block_indices", content)
    depth = _whole(path, content, "num_hidden_layers")
    if windowed and depth:
        return tuple(i for i in range(min(depth, 1000)) if i not in windowed)
    return _blocks(path, "global_attn_indexes", content)


def _blocks(path: Path, key: str, content: Mapping[str, Any]) -> tuple[int, ...] | None:
    values = content.get(key)
    if values is None:
        return None
    if not isinstance(values, list) or not all(
        isinstance(value, int) and 0 <= value < 1000 for value in values
    ):
        raise UserError(f"{path}: {key} must be a list of block numbers")
    return tuple(values)
