"""The parts of today's ViTs: tokens after every block as the real classes of timm give them.

All are random weights of width 48 or 64 and 4 blocks, with attention sharpened: float32 alone moves
the last tokens by up to 1.4e-4 there.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdet.models.settings import VitSettings
from jaxdet.models.vit import ViT

FAMILIES = {
    "timm_dinov3": {
        "qkv_bias": "none",
        "layer_scale": 1.0,
        "norm_eps": 1e-5,
        "absolute_position": "none",
        "rope": "dinov3",
        "registers": 4,
    },
    "timm_eva02_clip": {
        "activation": "swiglu",
        "qkv_bias": "qv",
        "rope": "eva02",
        "rope_base": 10000.0,
        "rope_grid": 8.0,
        "resize": "antialias",
        "mlp_norm": True,
        "attention_norm": True,
    },
    "timm_pe_spatial": {
        "patch_bias": False,
        "pre_norm": True,
        "norm_eps": 1e-5,
        "rope": "pe",
        "rope_base": 10000.0,
        "rope_grid": 7.0,
        "resize": "antialias",
    },
    "timm_aimv2": {
        "patch": 14,
        "bias": False,
        "qkv_bias": "none",
        "activation": "swiglu",
        "mlp_hidden": 132,
        "norm": "rms",
        "norm_eps": 1e-5,
        "patch_norm": True,
        "resize": "antialias",
        "class_token": False,
    },
    "timm_vit_qknorm": {
        "width": 64,
        "mlp_ratio": 3.0,
        "layer_scale": 1.0,
        "qk_norm": True,
        "resize": "antialias",
    },
    "nvidia_radio": {
        "patch_bias": False,
        "layer_scale": 1.0,
        "pretrain_grid": 16,
        "registers": 7,
        "resize": "radio",
    },
}
NAMES = (
    (r"radio_model\.model\.", ""),
    (r"patch_generator\.embedder", "patch_embed"),
    (r"patch_generator\.pos_embed", "pos_embed"),
    (r"patch_generator\.cls_token\.token|cls_token", "class_token"),
    ("reg_token", "registers"),
    (r"patch_embed\.norm", "patch_norm"),
    (r"patch_embed\.proj", "patch_embed"),
    (r"gamma_([12])|ls([12])\.(gamma|grandma)", r"gamma\1\2"),
    (r"fc1_g\.", "fc1."),
    (r"q_proj\.bias", "q_bias"),
    (r"v_proj\.bias", "v_bias"),
    (r"q_proj\.", "qkv."),
    (r"(norm\w*)\.weight", r"\1.scale"),
    (r"\.weight", ".kernel"),
)


WITHOUT = {"class_token": False, "registers": 0}


def settings_of(name: str, expected: Mapping[str, np.ndarray]) -> VitSettings:
    options = {
        "width": 48,
        "depth": 4,
        "heads": int(expected["heads"]),
        "image_size": expected["image"].shape[-1],
        "pretrain_grid": 7,
        "global_blocks": (0, 1, 2, 3),
        "out_indices": (0, 1, 2, 3),
        "relative_position": "none",
        "class_token": True,
    }
    return VitSettings(**{**options, **FAMILIES[name]})


def filled(settings: VitSettings, tensors: dict[str, np.ndarray]) -> ViT:
    """The ViT with a state dict's values, all of its parameters given."""
    abstract = nnx.eval_shape(lambda: ViT(settings, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    graph, params = nnx.split(abstract)
    arrays = our_arrays(tensors, settings)
    values = {}
    for path, leaf in nnx.to_flat_state(params):
        value = arrays[".".join(map(str, path))]
        assert value.shape == leaf.shape, path
        values[path] = leaf.replace(jnp.asarray(value, jnp.float32))
    return nnx.merge(graph, nnx.from_flat_state(values))


def our_arrays(tensors: dict[str, np.ndarray], settings: VitSettings) -> dict[str, np.ndarray]:
    """A state dict under our paths; what no path asks for stays too."""
    tensors = dict(tensors)
    for name in [name for name in tensors if ".q_proj.weight" in name]:
        keys = [name.replace("q_proj", f"{each}_proj") for each in "kv"]
        tensors[name] = np.concatenate([tensors[name], *(tensors.pop(key) for key in keys)])
    for name in [name for name in tensors if ".fc1_g." in name]:
        value = tensors.pop(name.replace("fc1_g", "fc1_x"))
        tensors[name] = np.concatenate([tensors[name], value])
    arrays = {}
    for name, value in tensors.items():
        for pattern, own in NAMES:
            name = re.sub(pattern, own, name)
        if name == "patch_embed.kernel":
            # NVIDIA's is a linear layer over (channels, rows, columns) already.
            value = value.reshape(len(value), 3, settings.patch, settings.patch)
            value = value.transpose(2, 3, 1, 0).reshape(-1, len(value))
        elif name.endswith("kernel"):
            value = value.T
        arrays[name] = value
    prefix = arrays.pop("class_token", np.zeros((0, settings.width)))
    prefix = prefix.reshape(-1, settings.width)
    if "pos_embed" in arrays:
        rows = arrays["pos_embed"][0]
        grid = settings.pretrain_grid
        extra = len(rows) - grid * grid
        arrays["class_pos_embed"] = rows[0] if extra else np.zeros(settings.width)
        arrays["pos_embed"] = rows[extra:].reshape(grid, grid, -1)
    else:
        arrays["class_pos_embed"] = np.zeros(settings.width)
    arrays["registers"] = arrays.get("registers", prefix[1:]).reshape(-1, settings.width)
    arrays["class_token"] = prefix[:1].reshape(-1)
    return arrays


@pytest.mark.usefixtures("compiled_blocks")
@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_equal_the_real_class_s(reference_file, name):
    """With class token and registers on the larger, not square grid; without them on its own."""
    safetensors = pytest.importorskip("safetensors.numpy")
    tensors = safetensors.load_file(reference_file(f"{name}.safetensors"))
    expected = np.load(reference_file(f"{name}_outputs.npz"))
    settings = settings_of(name, expected)
    cases = (("large_image", "large_tokens", {}), ("image", "tokens_without_prefix", WITHOUT))
    for image, wanted, changes in cases:
        model = filled(dataclasses.replace(settings, **changes), tensors)
        found = model(jnp.asarray(expected[image].transpose(0, 2, 3, 1)))
        np.testing.assert_allclose(found, expected[wanted], atol=1e-3, rtol=0)
    if "norm.weight" in tensors and "final" in expected:
        model = filled(dataclasses.replace(settings, final_norm=True, **WITHOUT), tensors)
        found = model(jnp.asarray(expected["image"].transpose(0, 2, 3, 1)))[-1]
        is_same = "final_without_prefix" not in expected
        wanted = expected["final" if is_same else "final_without_prefix"]
        np.testing.assert_allclose(found, wanted, atol=1e-3, rtol=0)
