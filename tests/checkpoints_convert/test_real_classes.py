"""Files of the real classes of timm and transformers: converted, they give these classes' tokens.

Random weights of width 48 or 64 and 4 blocks, with attention sharpened, so that float32 alone moves
the last tokens by up to 1.4e-4.
"""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from checkpoints_convert.conversion import convert
from checkpoints_convert.conversion_plan import Options
from checkpoints_convert.model_config import read_model_config
from checkpoints_convert.reading import read
from jaxdet.models.position import RelativePositionBias
from jaxdet.models.settings import VitSettings
from jaxdet.models.vit import ViT

pytest.importorskip("torch")

GIVEN = {
    "hf_beit": {"pixels": "half"},
    "hf_beit_shared": {"pixels": "half"},
    "hf_vit": {"pixels": "half"},
    "timm_clip": {"activation": "gelu"},
    "timm_clip_quickgelu": {"activation": "quick_gelu"},
    "timm_eva02_base": {"rope_grid": 7.0},
    "timm_eva02_base_448": {"rope_grid": 4.0},
    "timm_eva02_clip": {"rope_grid": 8.0},
    "timm_eva02_tiny": {"rope_grid": 7.0},
    "timm_radio": {"pixels": "clip"},
    "timm_siglip2": {"pixels": "half"},
    "timm_siglip2_map": {"pixels": "half"},
    "timm_vit_qknorm": {"pixels": "half"},
}
"""What a user has to give, for the file does not say it: of these files alone."""

SMALL = {
    "big_vision": "big_vision (JAX)",
    "hf_aimv2": "AIMv2 (transformers)",
    "hf_clip_vision": "CLIP (Hugging Face)",
    "hf_ijepa": "ViT (transformers)",
    "hf_msn": "ViT (transformers)",
    "hf_radio": "RADIO (NVIDIA, transformers)",
    "hf_siglip2_naflex": "SigLIP",
    "hf_siglip_vision": "SigLIP",
    "mmpretrain": "MMPretrain",
    "torchvision": "torchvision",
}
"""Files that make_layouts.py makes, and the layouts that they are recognised as."""

FAMILIES = (
    "hf_beit_shared",
    "hf_deit",
    "hf_dinov2",
    "hf_dinov2_registers",
    "hf_dinov2_swiglu",
    "hf_dinov3",
    "hf_dinov3_gated",
    "hf_vit",
    "hf_vitmae",
    "meta_dinov3",
    "nvidia_radio",
    "timm_aimv2",
    "timm_clip",
    "timm_clip_quickgelu",
    "timm_dinov3",
    "timm_eva02_base",
    "timm_eva02_base_448",
    "timm_eva02_clip",
    "timm_eva02_tiny",
    "timm_pe_spatial",
    "timm_radio",
    "timm_siglip2",
    "timm_siglip2_map",
    "timm_vit_qknorm",
)
SHARED_GRID = 7

WITH_FINAL_NORM = ("timm_aimv2", "timm_dinov3", "timm_eva02_clip", "timm_vit_qknorm")
"""Of these the last norm is applied in one of the cases."""


def converted(reference_file, name, heads, suffix=".safetensors", **options):
    """The conversion of a file, with the `config.json` that came with it."""
    path = reference_file(f"{name}{suffix}")
    source = read(path)
    config = path.with_name(f"{path.stem}_config.json")
    if config.is_file():
        source = replace(source, model_config=read_model_config(config))
        heads = None
    given = GIVEN.get(name, {}) | options
    pixels = given.pop("pixels", None)
    grids = {"window": SHARED_GRID, "global_grid": SHARED_GRID}
    return convert(source, Options(heads=heads, **grids, **given), pixels=pixels)


def settings_of(conversion, image_size: int, **changes) -> VitSettings:
    """The ViT that a conversion's report describes, all of its blocks global."""
    report = conversion.report
    keys = {
        key.removeprefix("model.vit."): value
        for key, value in (report["config"] | report["recipe"]).items()
    }
    keys["layer_scale"] = 1.0 if keys["layer_scale"] else None
    has_table = any("rel_pos" in path for path in conversion.arrays)
    defaults = {
        "image_size": image_size,
        "global_blocks": tuple(range(keys["depth"])),
        "out_indices": tuple(range(keys["depth"])),
        "relative_position": "shared" if has_table else "none",
        "window": SHARED_GRID,
    }
    return VitSettings(**{**keys, **defaults, "final_norm": False, **changes})


def filled(settings: VitSettings, conversion) -> ViT:
    """The ViT with the converted arrays, none missing."""
    abstract = nnx.eval_shape(lambda: ViT(settings, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    graph, params = nnx.split(abstract)
    values = {}
    for path, leaf in nnx.to_flat_state(params):
        tensor = conversion.arrays["backbone." + ".".join(map(str, path))]
        assert tensor.shape == leaf.shape, path
        values[path] = leaf.replace(jnp.asarray(tensor.read(), jnp.float32))
    return nnx.merge(graph, nnx.from_flat_state(values))


@pytest.mark.usefixtures("compiled_blocks")
@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_equal_the_real_class_s(reference_file, name):
    """All tokens on the larger, not square grid; the patches alone on the grid of pre-training."""
    expected = np.load(reference_file(f"{name}_outputs.npz"))
    conversion = converted(reference_file, name, int(expected["heads"]))
    settings = settings_of(conversion, expected["image"].shape[-1])
    assert settings.heads == expected["heads"]
    without_prefix = {"class_token": False, "registers": 0}
    cases = [("image", "tokens_without_prefix", without_prefix)]
    if name in WITH_FINAL_NORM:
        cases = [("image", "final_without_prefix", {**without_prefix, "final_norm": True})]
    if settings.relative_position == "none":
        assert settings.prefix_tokens == expected["prefix_tokens"]
        cases.append(("large_image", "large_tokens", {}))
    for image, wanted, changes in cases:
        model = filled(dataclasses.replace(settings, **changes), conversion)
        found = model(jnp.asarray(expected[image].transpose(0, 2, 3, 1)))
        if wanted.startswith("final"):
            has_prefix = wanted in expected
            found, wanted = found[-1], wanted if has_prefix else "final"
        np.testing.assert_allclose(found, expected[wanted], atol=1e-3, rtol=0)


@pytest.mark.usefixtures("compiled_blocks")
@pytest.mark.parametrize("name", SMALL)
def test_layouts_of_other_packages(reference_file, name):
    expected = np.load(reference_file(f"layouts/{name}_outputs.npz"))
    suffix = ".npz" if name == "big_vision" else ".safetensors"
    given = int(expected["heads"])
    heads = None if suffix == ".npz" else given
    conversion = converted(reference_file, f"layouts/{name}", heads, suffix, pixels="half")
    assert conversion.report["layout"] == SMALL[name]
    assert conversion.report["unknown"] == []
    settings = settings_of(conversion, 32)
    assert settings.heads == given
    model = filled(settings, conversion)
    for size in ("", "large_") if "large_image" in expected else ("",):
        found = model(jnp.asarray(expected[f"{size}image"].transpose(0, 2, 3, 1)))
        np.testing.assert_allclose(found, expected[f"{size}tokens"], atol=1e-3, rtol=0)


@pytest.mark.usefixtures("compiled_blocks")
def test_vitdet_has_windows_and_decomposed_positions(reference_file):
    expected = np.load(reference_file("layouts/hf_vitdet_outputs.npz"))
    conversion = converted(reference_file, "layouts/hf_vitdet", None, pixels="imagenet")
    assert conversion.report["recipe"]["model.vit.global_blocks"] == [1, 3]
    windows = {"window": 2, "global_blocks": (1, 3), "relative_position": "decomposed"}
    model = filled(settings_of(conversion, 32, **windows), conversion)
    found = model(jnp.asarray(expected["image"].transpose(0, 2, 3, 1)))
    np.testing.assert_allclose(found, expected["tokens"], atol=1e-3, rtol=0)


def bias_of(source, block: int, grid: tuple[int, int]) -> RelativePositionBias:
    """A block's table, its own or that of all, resized as transformers does: bilinear."""
    import torch

    names = [name for name in source.state if name.endswith("relative_position_bias_table")]
    own = [name for name in names if f"layer.{block}." in name]
    rows = source.state[(own or names)[0]].read()[:-3]
    side, heads = round(len(rows) ** 0.5), rows.shape[1]
    planes = torch.from_numpy(rows.reshape(1, side, side, heads).transpose(0, 3, 1, 2).copy())
    size = (2 * grid[0] - 1, 2 * grid[1] - 1)
    planes = torch.nn.functional.interpolate(planes, size=size, mode="bilinear").numpy()
    bias = RelativePositionBias(grid, heads)
    bias.table[...] = jnp.asarray(planes[0].transpose(1, 2, 0).reshape(-1, heads))
    return bias


@pytest.mark.usefixtures("compiled_blocks")
@pytest.mark.parametrize(
    "name", ["hf_beit", "hf_beit_shared", "layouts/hf_data2vec", "layouts/hf_data2vec_shared"]
)
def test_beit_and_data2vec_with_their_own_tables(reference_file, name):
    """A detector's blocks share two tables; here each has its own, on square maps and others."""
    expected = np.load(reference_file(f"{name}_outputs.npz"))
    conversion = converted(reference_file, name, None, pixels="half")
    assert conversion.report["layout"] == "BEiT, data2vec (transformers)"
    assert conversion.report["unknown"] == []
    source = read(reference_file(f"{name}.safetensors"))
    settings = settings_of(conversion, expected["image"].shape[-1])
    model = filled(replace(settings, relative_position="none"), conversion)
    for size in ("", "large_"):
        x = model.embed(jnp.asarray(expected[f"{size}image"].transpose(0, 2, 3, 1)))
        wanted = f"{size}tokens_without_prefix"
        wanted = expected[wanted if wanted in expected else f"{size}tokens"]
        for i, block in enumerate(model.blocks):
            x = block(x, bias_of(source, i, x.shape[1:3])(), None)
            np.testing.assert_allclose(x, wanted[i], atol=1e-3, rtol=0)


@pytest.mark.usefixtures("compiled_blocks")
@pytest.mark.parametrize("name", ["hf_sam", "timm_samvit"])
def test_sam_has_windows_and_decomposed_positions(reference_file, name):
    expected = np.load(reference_file(f"{name}_outputs.npz"))
    conversion = converted(reference_file, name, int(expected["heads"]))
    windows = {"window": 3, "global_blocks": (1, 3), "relative_position": "decomposed"}
    if name == "timm_samvit":  # timm's class has another epsilon than Meta's, which the file is of
        windows["norm_eps"] = 1e-5
    settings = settings_of(conversion, expected["image"].shape[-1], **windows)
    model = filled(settings, conversion)
    for size in ("", "large_") if "large_image" in expected else ("",):
        found = model(jnp.asarray(expected[f"{size}image"].transpose(0, 2, 3, 1)))
        np.testing.assert_allclose(found, expected[f"{size}tokens"], atol=1e-3, rtol=0)
