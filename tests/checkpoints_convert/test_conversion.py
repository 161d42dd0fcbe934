"""Every layout against timm's: the same numbers under other names give the same arrays; and what
is missing, unknown or of another shape is rejected."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from checkpoints_convert.conversion import LAYOUTS, NAMES, convert
from checkpoints_convert.conversion_plan import Options
from checkpoints_convert.model_config import read_model_config
from checkpoints_convert.reading import read
from checkpoints_convert.relative_position import resize_bicubic, table_side
from checkpoints_convert.vit import to_timm
from jaxdet.errors import UserError
from jaxdet.models.position import sincos_embedding

WIDTH, DEPTH, HEADS, PATCH, GRID = 8, 4, 2, 4, 3


def arrays_of(path, options=None, *, pixels="imagenet", **choices):
    choices["pixels"] = pixels
    conversion = convert(read(path), options or Options(), **choices)
    return {name: tensor.read() for name, tensor in conversion.arrays.items()}, conversion.report


CLASS_TOKEN = ("backbone.class_token", "backbone.class_pos_embed")


def without_class_token(arrays):
    return {name: value for name, value in arrays.items() if name not in CLASS_TOKEN}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


@pytest.fixture
def expected(timm_state, save_torch):
    """What timm's own layout gives."""
    arrays, report = arrays_of(save_torch(timm_state(), "timm.pth"))
    assert report["layout"] == "DeiT, timm"
    return arrays


def renamed(state, *pairs):
    result = {}
    for name, value in state.items():
        for pattern, replacement in pairs:
            name = re.sub(pattern, replacement, name)
        result[name] = value
    return result


def test_arrays_are_laid_out_as_jaxdet_has_them(timm_state, expected):
    state = timm_state()
    kernel = state["patch_embed.proj.weight"]
    found = expected["backbone.patch_embed.kernel"].reshape(PATCH, PATCH, 3, WIDTH)
    np.testing.assert_array_equal(found[1, 2, 0], kernel[:, 0, 1, 2])
    np.testing.assert_array_equal(
        expected["backbone.pos_embed"][1, 2], state["pos_embed"][0, 1 + GRID + 2]
    )
    np.testing.assert_array_equal(
        expected["backbone.blocks.3.mlp.fc1.kernel"], state["blocks.3.mlp.fc1.weight"].T
    )


def test_mae_with_its_decoder(timm_state, save_torch, expected):
    state = timm_state()
    state |= {"decoder_embed.weight": np.ones((2, 8), np.float32), "mask_token": np.ones((1, 1, 2))}
    path = save_torch(state, wrap=lambda x: {"model": x, "optimizer": {"state": {}}, "epoch": 3})
    arrays, report = arrays_of(path)
    assert_same(arrays, expected)
    assert report["layout"] == "MAE"
    left = {entry["name"]: entry["reason"] for entry in report["left_out"]}
    assert left["decoder_embed.weight"] == "the decoder of the pre-training"
    assert {"optimizer", "epoch", "mask_token"} <= left.keys()


def test_mae_without_decoder_is_known_by_its_embedding(timm_state, save_torch):
    state = timm_state()
    state["pos_embed"][0, 0] = 0
    state["pos_embed"][0, 1:] = sincos_embedding(GRID, WIDTH).reshape(-1, WIDTH)
    assert arrays_of(save_torch(state))[1]["layout"] == "MAE"
    state["pos_embed"][0, 0, 0] = 1
    assert arrays_of(save_torch(state))[1]["layout"] == "DeiT, timm"


def test_the_sincos_table_is_mae_s(reference_file):
    arrays = convert(read(reference_file("mae_tiny.pth")), Options()).arrays
    table = sincos_embedding(4, 32)
    np.testing.assert_allclose(arrays["backbone.pos_embed"].read(), table, atol=1e-6)


def test_moco_takes_the_base_encoder(timm_state, save_torch, expected):
    base = renamed(timm_state(), ("^", "module.base_encoder."))
    momentum = renamed(timm_state(seed=1), ("^", "module.momentum_encoder."))
    state = momentum | base | {"module.predictor.0.weight": np.ones((2, 2), np.float32)}
    arrays, report = arrays_of(save_torch(state, wrap=lambda x: {"state_dict": x, "arch": "vit"}))
    assert_same(arrays, expected)
    assert report["layout"] == "MoCo v3"
    assert len([e for e in report["left_out"] if "momentum" in e["name"]]) == len(momentum)


def test_dino_takes_the_teacher(timm_state, save_torch, expected):
    def checkpoint(tensors):
        teacher = renamed(tensors, ("^", "backbone."))
        teacher["head.last_layer.weight_v"] = tensors["norm.weight"]
        return {"student": {"x": tensors["norm.bias"]}, "teacher": teacher, "epoch": 1}

    arrays, report = arrays_of(save_torch(timm_state(), wrap=checkpoint))
    assert_same(arrays, expected)
    assert report["layout"] == "DINO, iBOT"
    assert "student" in {entry["name"] for entry in report["left_out"]}


def test_ibot(timm_state, save_torch, expected):
    state = timm_state() | {"masked_embed": np.ones((1, WIDTH), np.float32)}
    arrays, report = arrays_of(save_torch(state, wrap=lambda x: {"state_dict": x}))
    assert_same(arrays, expected)
    assert report["layout"] == "DINO, iBOT"


def test_i_jepa_takes_the_target_encoder(timm_state, save_torch, expected):
    """As its authors' training leaves it, with an encoder and a predictor beside it."""

    def checkpoint(tensors):
        wrapped = {f"module.{name}": tensor for name, tensor in tensors.items()}
        others = {name: tensor + 1 for name, tensor in wrapped.items()}
        return {"encoder": others, "predictor": others, "target_encoder": wrapped, "epoch": 3}

    state = timm_state()
    del state["cls_token"]
    state["pos_embed"] = state["pos_embed"][:, 1:]
    arrays, report = arrays_of(save_torch(state, "in1k_vith14_ep300.pth.tar", wrap=checkpoint))
    assert_same(arrays, without_class_token(expected))
    left = {entry["name"] for entry in report["left_out"]}
    assert {"encoder", "predictor", "epoch"} <= left


def test_franca_is_a_teacher_with_dinov2_s_names(timm_state, save_torch):
    state = timm_state() | {"mask_token": np.ones((1, WIDTH), np.float32)}
    for i in range(DEPTH):
        for branch in (1, 2):
            state[f"blocks.{i}.ls{branch}.gamma"] = np.full(WIDTH, i + branch, np.float32)
    teacher = renamed(state, ("^", "backbone.")) | {
        "rasa_head.pre_pos_layers.0.weight": np.ones((2, WIDTH), np.float32),
        "ibot_head.last_layer.weight_v": np.ones((2, WIDTH), np.float32),
    }
    path = save_torch(teacher, wrap=lambda tensors: {"teacher": tensors})
    arrays, report = arrays_of(path, layout=NAMES["dinov2"])
    assert report["unknown"] == []
    assert_same(arrays, arrays_of(save_torch(state, "dinov2.pth"))[0])


IN_MEMORY = {
    "layouts/hf_msn": (
        (r"^encoder\.layer\.", "layers."),
        (r"attention\.attention\.([qkv])\w+", r"attention.\1_proj"),
        (r"attention\.output\.dense", "attention.o_proj"),
        (r"intermediate\.dense", "mlp.fc1"),
        (r"(\d)\.output\.dense", r"\1.mlp.fc2"),
    ),
    "hf_dinov2": (
        (r"attention\.attention\.([qkv])\w+", r"attention.\1_proj"),
        (r"attention\.output\.dense", "attention.o_proj"),
    ),
    "hf_beit": (
        (r"^encoder\.layer\.", "layers."),
        (r"attention\.attention\.relative", "relative"),
        (r"attention\.attention\.(query|key|value)", lambda m: f"attention.{m[1][0]}_proj"),
        (r"attention\.output\.dense", "attention.o_proj"),
        (r"intermediate\.dense", "mlp.fc1"),
        (r"(\d)\.output\.dense", r"\1.mlp.fc2"),
    ),
}


@pytest.mark.parametrize("name", IN_MEMORY)
def test_names_of_transformers_classes_in_memory(reference_file, save_torch, name):
    """A state_dict() that was saved as it is has other names than save_pretrained gives."""
    path = reference_file(f"{name}.safetensors")
    expected, report = arrays_of(path, Options(heads=3 if "hf_" in name[:3] else 2))
    state = {name: tensor.read() for name, tensor in read(path).state.items()}
    other = renamed(state, *IN_MEMORY[name])
    assert other.keys() != state.keys()
    found, again = arrays_of(save_torch(other), Options(heads=report["vit"]["heads"]))
    assert again["layout"] == report["layout"]
    assert_same(found, expected)


def test_aimv2_s_own_names(reference_file, save_torch):
    state = {
        name: tensor.read()
        for name, tensor in read(reference_file("timm_aimv2.safetensors")).state.items()
    }
    expected = arrays_of(save_torch(state), Options(heads=2))[0]
    names = (
        (r"^patch_embed\.", "preprocessor.patchifier."),
        ("^pos_embed$", "preprocessor.pos_embed"),
        (r"^norm\.", "trunk.post_trunk_norm."),
        (r"^blocks\.", "trunk.blocks."),
        (r"\.norm([12])\.", r".norm_\1."),
        (r"fc1_g\.", "fc1."),
        (r"fc1_x\.", "fc3."),
    )
    arrays, report = arrays_of(save_torch(renamed(state, *names), "own.pth"), Options(heads=2))
    assert report["layout"] == "AIMv2 (its authors')"
    assert_same(arrays, expected)


@pytest.mark.parametrize("chunked", [False, True])
def test_dinov2_with_registers_and_layer_scale(timm_state, save_torch, expected, chunked):
    state = timm_state() | {
        "mask_token": np.ones((1, WIDTH), np.float32),
        "register_tokens": np.ones((1, 4, WIDTH), np.float32),
    }
    for i in range(DEPTH):
        for branch in (1, 2):
            state[f"blocks.{i}.ls{branch}.gamma"] = np.full(WIDTH, i + branch, np.float32)
    if chunked:
        state = renamed(state, (r"^blocks\.([01])\.", r"blocks.0.\1."))
        state = renamed(state, (r"^blocks\.([23])\.", r"blocks.1.\1."))
    arrays, report = arrays_of(save_torch(state))
    assert report["layout"] == "DINOv2"
    assert report["config"]["model.vit.layer_scale"] is True
    np.testing.assert_array_equal(arrays.pop("backbone.blocks.2.gamma1"), np.full(WIDTH, 3.0))
    np.testing.assert_array_equal(arrays.pop("backbone.registers"), np.ones((4, WIDTH)))
    assert report["config"]["model.vit.registers"] == 4
    assert_same({name: v for name, v in arrays.items() if "gamma" not in name}, expected)


def test_dinov2_with_swiglu(timm_state, save_torch):
    state, hidden = timm_state(), 24  # two thirds of 4 x 8 in steps of 8
    for i in range(DEPTH):
        for name in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"):
            del state[f"blocks.{i}.mlp.{name}"]
        state[f"blocks.{i}.mlp.w12.weight"] = np.ones((2 * hidden, WIDTH), np.float32)
        state[f"blocks.{i}.mlp.w12.bias"] = np.ones(2 * hidden, np.float32)
        state[f"blocks.{i}.mlp.w3.weight"] = np.ones((WIDTH, hidden), np.float32)
        state[f"blocks.{i}.mlp.w3.bias"] = np.ones(WIDTH, np.float32)
    arrays, report = arrays_of(save_torch(state))
    assert arrays["backbone.blocks.0.mlp.fc1.kernel"].shape == (WIDTH, 2 * hidden)
    assert report["config"]["model.vit.activation"] == "swiglu"
    assert report["config"]["model.vit.mlp_ratio"] == 4.0


def clip_state(timm, style):
    """The same ViT as CLIP stores it; a norm before the blocks, no bias of the patch projection."""
    state = {**timm, "norm_pre.weight": timm["norm.weight"], "norm_pre.bias": timm["norm.bias"]}
    del state["patch_embed.proj.bias"]
    state["pos_embed"], state["cls_token"] = state["pos_embed"][0], state["cls_token"][0, 0]
    if style == "open_clip":
        names = (
            (r"^patch_embed\.proj", "conv1"),
            ("^cls_token", "class_embedding"),
            ("^pos_embed", "positional_embedding"),
            ("^norm_pre", "ln_pre"),
            (r"^norm\.", "ln_post."),
            ("^blocks", "transformer.resblocks"),
            (r"attn\.qkv\.", "attn.in_proj_"),
            (r"attn\.proj", "attn.out_proj"),
            (r"\.norm([12])", r".ln_\1"),
            (r"mlp\.fc1", "mlp.c_fc"),
            (r"mlp\.fc2", "mlp.c_proj"),
            ("^", "visual."),
        )
        return renamed(state, *names) | {
            "visual.proj": np.ones((WIDTH, 4), np.float32),
            "logit_scale": np.ones((), np.float32),
            "transformer.resblocks.0.ln_1.weight": np.ones(4, np.float32),
            "positional_embedding": np.ones((5, 4), np.float32),
        }
    names = (
        (r"^patch_embed\.proj", "embeddings.patch_embedding"),
        ("^cls_token", "embeddings.class_embedding"),
        ("^pos_embed", "embeddings.position_embedding.weight"),
        ("^norm_pre", "pre_layrnorm"),
        (r"^norm\.", "post_layernorm."),
        ("^blocks", "encoder.layers"),
        (r"attn\.proj", "self_attn.out_proj"),
        (r"\.norm([12])", r".layer_norm\1"),
        ("^", "vision_model."),
    )
    return split_qkv(renamed(state, *names), "self_attn.{}_proj") | {
        "visual_projection.weight": np.ones((4, WIDTH), np.float32),
        "vision_model.embeddings.position_ids": np.arange(10),
        "text_model.final_layer_norm.bias": np.ones(4, np.float32),
    }


def split_qkv(state, pattern):
    result = {}
    for name, value in state.items():
        if "attn.qkv" not in name:
            result[name] = value
            continue
        for letter, part in zip("qkv", np.split(value, 3), strict=True):
            result[name.replace("attn.qkv", pattern.format(letter))] = part
    return result


@pytest.mark.parametrize(("style", "layout"), [("open_clip", "clip"), ("hf", "clip-hf")])
def test_clip(timm_state, save_torch, expected, style, layout):
    path = save_torch(clip_state(timm_state(), style))
    with pytest.raises(UserError, match=r"does not name its activation; give --activation=quick"):
        convert(read(path), Options())
    arrays, report = arrays_of(path, Options(activation="quick_gelu"), pixels=None)
    assert report["layout"] == NAMES[layout].title
    assert report["config"]["model.vit.pre_norm"] is True
    assert report["config"]["model.vit.activation"] == "quick_gelu"
    assert report["pixel_mean"][0] == pytest.approx(0.48145466 * 255)
    state = timm_state()
    np.testing.assert_array_equal(arrays.pop("backbone.norm_pre.scale"), state["norm.weight"])
    np.testing.assert_array_equal(arrays.pop("backbone.norm_pre.bias"), state["norm.bias"])
    assert report["config"]["model.vit.patch_bias"] is False
    del expected["backbone.patch_embed.bias"]
    assert_same(arrays, expected)


def test_siglip(timm_state, save_torch, expected):
    state = clip_state(timm_state(), "hf")
    del state["vision_model.embeddings.class_embedding"]
    state = {name: value for name, value in state.items() if "pre_layrnorm" not in name}
    name = "vision_model.embeddings.position_embedding.weight"
    state[name] = state[name][1:]
    state["vision_model.embeddings.patch_embedding.bias"] = timm_state()["patch_embed.proj.bias"]
    state["vision_model.head.probe"] = np.ones((1, 1, WIDTH), np.float32)
    state["logit_bias"] = np.ones(1, np.float32)
    arrays, report = arrays_of(save_torch(state), pixels=None)
    assert_same(arrays, without_class_token(expected))
    assert report["layout"] == "SigLIP"
    assert report["config"]["model.vit.activation"] == "gelu_tanh"
    assert report["pixel_mean"] == [127.5] * 3


def test_augreg(timm_state, tmp_path, expected):
    names = (
        (r"^patch_embed\.proj\.weight", "embedding/kernel"),
        (r"^patch_embed\.proj\.bias", "embedding/bias"),
        ("^cls_token", "cls"),
        ("^pos_embed", "Transformer/posembed_input/pos_embedding"),
        (r"^norm\.weight", "Transformer/encoder_norm/scale"),
        (r"^norm\.bias", "Transformer/encoder_norm/bias"),
        (r"^blocks\.(\d)\.", r"Transformer/encoderblock_\1/"),
        (r"norm1\.", "LayerNorm_0/"),
        (r"norm2\.", "LayerNorm_2/"),
        (r"attn\.proj\.", "MultiHeadDotProductAttention_1/out/"),
        (r"mlp\.fc1\.", "MlpBlock_3/Dense_0/"),
        (r"mlp\.fc2\.", "MlpBlock_3/Dense_1/"),
        (r"(LayerNorm_\d/)weight", r"\1scale"),
        (r"/weight$", "/kernel"),
    )
    state = {}
    for name, value in renamed(split_qkv(timm_state(), "attn.{}"), *names).items():
        heads = (HEADS, WIDTH // HEADS)
        match = re.search(r"attn\.([qkv])\.(weight|bias)", name)
        if match:
            layer = {"q": "query", "k": "key", "v": "value"}[match[1]]
            is_kernel = match[2] == "weight"
            leaf = "kernel" if is_kernel else "bias"
            name = f"{name[: match.start()]}MultiHeadDotProductAttention_1/{layer}/{leaf}"
            value = value.T.reshape(WIDTH, *heads) if is_kernel else value.reshape(heads)
        elif name.endswith("out/kernel"):
            value = value.T.reshape(*heads, WIDTH)
        elif name == "embedding/kernel":
            value = value.transpose(2, 3, 1, 0)
        elif name.endswith("kernel"):
            value = value.T
        state[name] = value
    state["head/kernel"] = np.ones((WIDTH, 3), np.float32)
    state["pre_logits/bias"] = np.ones(WIDTH, np.float32)
    path = tmp_path / "B_16.npz"
    np.savez(path, **state)
    arrays, report = arrays_of(path, pixels=None)
    assert_same(arrays, expected)
    assert report["layout"] == "AugReg (JAX)"
    assert report["unknown"] == []
    assert report["pixel_std"] == [127.5] * 3


def test_safetensors_and_half_precision(timm_state, tmp_path, expected):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    tensors = {name: torch.from_numpy(value) for name, value in timm_state().items()}
    save_file(tensors, tmp_path / "a.safetensors")
    assert_same(arrays_of(tmp_path / "a.safetensors")[0], expected)
    save_file({n: t.bfloat16() for n, t in tensors.items()}, tmp_path / "half.safetensors")
    arrays, _ = arrays_of(tmp_path / "half.safetensors")
    for name, value in arrays.items():
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, expected[name], rtol=2**-8)


def test_old_pytorch_files(timm_state, save_torch, expected):
    path = save_torch(timm_state(), _use_new_zipfile_serialization=False)
    assert_same(arrays_of(path)[0], expected)


def test_the_stored_safetensors_equal_the_stored_pth(reference_file):
    found = arrays_of(reference_file("deit_tiny.safetensors"))[0]
    assert_same(found, arrays_of(reference_file("deit_tiny.pth"))[0])


def test_patches_are_resampled_only_when_asked(timm_state, save_torch):
    torch = pytest.importorskip("torch")
    state = timm_state(patch=14)
    path = save_torch(state)
    assert arrays_of(path)[1]["config"]["model.vit.patch"] == 14
    arrays, report = arrays_of(path, Options(patch=16))
    assert report["config"]["model.vit.patch"] == 16
    kernel = torch.from_numpy(state["patch_embed.proj.weight"])
    resized = torch.nn.functional.interpolate(kernel, (16, 16), mode="bicubic")
    found = arrays["backbone.patch_embed.kernel"].reshape(16, 16, 3, WIDTH)
    np.testing.assert_allclose(found, resized.numpy().transpose(2, 3, 1, 0), atol=1e-6)
    assert arrays["backbone.pos_embed"].shape == (GRID, GRID, WIDTH)  # 3 x 14 / 16, rounded


def test_a_grid_of_14_as_real_releases_have(reference_file):
    source = read(reference_file("mae_full_grid14_tiny.pth"))
    conversion = convert(source, Options())
    assert (conversion.report["layout"], conversion.report["vit"]["position_grid"]) == ("MAE", 14)
    position = source.state["pos_embed"].read()[0, 1:].reshape(14, 14, 64)
    np.testing.assert_array_equal(conversion.arrays["backbone.pos_embed"].read(), position)


def test_a_distilled_vit_and_one_whose_embedding_is_of_patches_alone(
    timm_state, save_torch, expected
):
    state = timm_state()
    position = state["pos_embed"]
    state["dist_token"] = state["cls_token"]
    state["pos_embed"] = np.concatenate([position[:, :1], position], 1)
    arrays, _ = arrays_of(save_torch(state))
    registers = arrays.pop("backbone.registers")
    np.testing.assert_array_equal(registers[0], (state["cls_token"] + position[:, :1])[0, 0])
    assert_same(arrays, expected)
    state = timm_state()
    state["pos_embed"] = position[:, 1:]
    arrays, _ = arrays_of(save_torch(state))
    assert not arrays["backbone.class_pos_embed"].any()
    assert_same(without_class_token(arrays), without_class_token(expected))


def beit_state(state, tables):
    """The ViT as BEiT has it: biases of query and value, layer scale, tables of a 3 x 3 grid."""
    result = {}
    for name, value in state.items():
        if name.endswith("attn.qkv.bias"):
            prefix = name.removesuffix("qkv.bias")
            result[f"{prefix}q_bias"], _, result[f"{prefix}v_bias"] = np.split(value, 3)
        elif name != "pos_embed":
            result[name] = value
    for i in range(DEPTH):
        for branch in (1, 2):
            result[f"blocks.{i}.gamma_{branch}"] = np.full(WIDTH, 0.1, np.float32)
    return result | tables


def a_table(rng):
    return rng.normal(size=((2 * GRID - 1) ** 2 + 3, HEADS)).astype(np.float32)


@pytest.mark.parametrize("kind", ["bicubic", "geometric"])
def test_beits_shared_table_is_spread_to_windows_and_globe(timm_state, save_torch, kind):
    torch = pytest.importorskip("torch")
    table = a_table(np.random.default_rng(5))
    state = beit_state(timm_state(), {"rel_pos_bias.relative_position_bias_table": table})
    options = Options(window=GRID, global_grid=7, rel_pos_resize=kind)
    arrays, report = arrays_of(save_torch(state), options)
    assert report["layout"] == "BEiT"
    assert report["config"]["model.vit.qkv_bias"] == "qv"
    assert report["config"]["model.vit.heads"] == HEADS
    np.testing.assert_array_equal(arrays["backbone.rel_pos_window.table"], table[:-3])
    found = arrays["backbone.rel_pos_global.table"].reshape(13, 13, HEADS)
    old = table[:-3].reshape(5, 5, HEADS)
    if kind == "bicubic":
        planes = torch.from_numpy(old.transpose(2, 0, 1).copy())[None]
        resized = torch.nn.functional.interpolate(planes, (13, 13), mode="bicubic")[0]
        np.testing.assert_allclose(found, resized.numpy().transpose(1, 2, 0), atol=1e-6)
    else:
        # Offsets -1, 0 and 1 keep their values, and the furthest stay the furthest.
        np.testing.assert_allclose(found[5:8, 5:8], old[1:4, 1:4], atol=1e-5)
        np.testing.assert_allclose(found[0, 0], old[0, 0], atol=1e-4)
        np.testing.assert_allclose(found[12, 6], old[4, 2], atol=1e-4)


def test_a_fine_tuned_beits_tables_are_averaged_by_kind_of_block(timm_state, save_torch):
    rng = np.random.default_rng(5)
    tables = {f"blocks.{i}.attn.relative_position_bias_table": a_table(rng) for i in range(DEPTH)}
    # The last block of each quarter of four blocks is every block: all attend globally.
    state = beit_state(timm_state(), tables)
    arrays, report = arrays_of(save_torch(state), Options(window=GRID, global_grid=GRID))
    assert "backbone.rel_pos_window.table" not in arrays
    mean = np.mean([*tables.values()], 0)[:-3]
    np.testing.assert_allclose(arrays["backbone.rel_pos_global.table"], mean, atol=1e-6)
    assert any("mean of theirs" in note for note in report["notes"])


def test_windowed_and_global_tables_of_a_fine_tuned_beit(timm_state, save_torch):
    rng = np.random.default_rng(5)
    first = timm_state()
    state = first | renamed(
        timm_state(seed=1), (r"^blocks\.(\d)", lambda match: f"blocks.{int(match[1]) + 4}")
    )
    tables = [a_table(rng) for _ in range(8)]
    names = [f"blocks.{i}.attn.relative_position_bias_table" for i in range(8)]
    state = beit_state(state, dict(zip(names, tables, strict=True)))
    for i in range(4, 8):
        for branch in (1, 2):
            state[f"blocks.{i}.gamma_{branch}"] = np.full(WIDTH, 0.1, np.float32)
    arrays, _ = arrays_of(save_torch(state), Options(window=GRID, global_grid=GRID))
    for kind, blocks in (("window", (0, 2, 4, 6)), ("global", (1, 3, 5, 7))):
        mean = np.mean([tables[i] for i in blocks], 0)[:-3]
        np.testing.assert_allclose(arrays[f"backbone.rel_pos_{kind}.table"], mean, atol=1e-6)


def test_table_sizes():
    assert table_side(27**2 + 3) == table_side(27**2) == 27
    with pytest.raises(ValueError, match="30 rows"):
        table_side(30)


def without(name):
    return lambda state: {key: value for key, value in state.items() if key != name}


def with_entry(name, value):
    return lambda state: state | {name: value}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without("blocks.2.attn.qkv.weight"), r"lacks blocks\.2\.attn\.qkv\.weight"),
        (without("blocks.1.norm2.bias"), r"lacks blocks\.1\.norm2\.bias"),
        (without("pos_embed"), "lacks pos_embed, which a DeiT, timm file has"),
        (
            lambda state: {k: v for k, v in state.items() if not k.startswith("blocks.1.")},
            "lacks block 1",
        ),
        (
            with_entry("blocks.0.norm1.weight", np.ones(9, np.float32)),
            r"blocks\.0\.norm1\.weight has the shape \(9,\), not \(8,\)",
        ),
        (
            with_entry("pos_embed", np.ones((1, 9 + 3, 8), np.float32)),
            "pos_embed has 12 positions, which are no square grid",
        ),
        (
            with_entry("patch_embed.proj.weight", np.ones((8, 4, 4, 4), np.float32)),
            "takes square patches of 3 channels",
        ),
        (
            with_entry("blocks.0.mlp.fc1.bias", np.ones(32, np.int8)),
            r"holds int8, not floats; convert the original",
        ),
        (
            with_entry("blocks.0.attn.strange.weight", np.ones(4, np.float32)),
            r"holds 1 tensors inside the blocks .* blocks\.0\.attn\.strange",
        ),
        (with_entry("adapter.weight", np.ones(4, np.float32)), r"adapter\.weight among them"),
    ],
)
def test_what_is_not_a_whole_vit_is_rejected(timm_state, save_torch, change, reason):
    path = save_torch(change(timm_state()))
    with pytest.raises(UserError, match=reason):
        convert(read(path), Options(), pixels="imagenet", allow_unknown="blocks" in reason)


def test_pixels_are_asked_for_where_nothing_says_them(timm_state, save_torch):
    path = save_torch(timm_state())
    with pytest.raises(UserError, match=r"pixels of its pre-training .* give --pixels=imagenet\|"):
        convert(read(path), Options())
    assert convert(read(path), Options(), layout=NAMES["deit"]).report["pixel_mean"][0] == 123.675
    (path.parent / "config.json").write_text(
        '{"architecture": "vit_tiny_patch16_224", "num_features": 8, '
        '"model_args": {"num_heads": 2}, '
        '"pretrained_cfg": {"mean": [0.5, 0.5, 0.25], "std": [0.5, 0.5, 0.5]}}'
    )
    report = convert(read(path), Options()).report
    assert report["pixel_mean"] == [127.5, 127.5, 63.75]
    assert report["config"]["model.vit.heads"] == 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[1]", "must hold a JSON object"),
        ("{", "cannot be read"),
        (
            '{"model_type": "vit", "num_attention_heads": "12"}',
            "num_attention_heads must be a whole",
        ),
        ('{"model_type": "vit", "hidden_act": "relu"}', "'relu' is none jaxdet has"),
        ('{"model_type": "vit", "hidden_size": 16}', "is of a model of width 16 and"),
        ('{"model_type": "vit", "num_attention_heads": 3}', "3 attention heads must divide"),
        ('{"architecture": "x", "mean": [1, 2, 3]}', "mean must be three numbers"),
    ],
)
def test_a_config_that_is_wrong_or_another_model_s(timm_state, save_torch, content, reason):
    path = save_torch(timm_state())
    (path.parent / "config.json").write_text(content)
    with pytest.raises(UserError, match=reason):
        convert(read(path), Options(), pixels="imagenet")


def test_heads_are_given_or_asked_for(timm_state, save_torch):
    path = save_torch(timm_state())
    assert convert(read(path), Options(heads=4), pixels="half").report["vit"]["heads"] == 4
    assert any(
        "--heads" in note for note in convert(read(path), Options(), pixels="half").report["notes"]
    )
    with pytest.raises(UserError, match="3 attention heads must divide the width 8; see --heads"):
        convert(read(path), Options(heads=3), pixels="half")


@pytest.mark.parametrize(
    "wrapper",
    [
        *("_orig_mod.", "module.", "backbone.", "model.image_encoder.", "visual.trunk."),
        *("encoder.", "model.encoder.", "student.backbone.", "net.0.", "my_vit."),
    ],
)
def test_a_wrapper_in_front_is_found(timm_state, save_torch, expected, wrapper):
    state = renamed(timm_state(), ("^", wrapper)) | {"text.token_embedding.weight": np.ones((2, 2))}
    arrays, report = arrays_of(save_torch(state))
    assert_same(arrays, expected)
    assert {"name": "text.token_embedding.weight", "reason": "outside of the ViT"} in report[
        "left_out"
    ]


@pytest.mark.parametrize("keys", [("model_ema",), ("net", "state_dict"), ("a", "b", "params")])
def test_a_vit_in_nested_dictionaries_is_found(timm_state, save_torch, expected, keys):
    def nested(state):
        for key in reversed(keys):
            state = {key: state}
        return state | {"optimizer": {"state": {0: {"exp_avg": next(iter(state.values()))}}}}

    arrays, report = arrays_of(save_torch(timm_state(), wrap=nested))
    assert_same(arrays, expected)
    assert {"name": "optimizer", "reason": "beside the model's tensors"} in report["left_out"]
    with pytest.raises(UserError, match=r"several ViTs, one and two\.model among them"):
        read(save_torch(timm_state(), wrap=lambda x: {"one": x, "two": {"model": x}}))


def test_two_vits_are_refused_by_name(timm_state, save_torch):
    state = renamed(timm_state(), ("^", "one.")) | renamed(timm_state(), ("^", "two."))
    with pytest.raises(UserError, match=r"several ViTs, one\. and two\. among them"):
        convert(read(save_torch(state)), Options())


def test_a_rotary_variant_of_timm_is_refused(timm_state, save_torch):
    gammas = {
        f"blocks.{i}.gamma_{j}": np.ones(WIDTH, np.float32) for i in range(DEPTH) for j in (1, 2)
    }
    state = timm_state() | gammas
    with_registers = {"reg_token": np.ones((1, 4, WIDTH), np.float32), **state}
    del with_registers["cls_token"], with_registers["pos_embed"]
    for each in (state, with_registers):  # the latter: vit_*_rope_reg4_gap_256
        with pytest.raises(UserError, match=r"rotary positions that no tensor shows"):
            convert(read(save_torch(each)), Options(), pixels="half")


def test_norms_behind_the_branches_are_known_by_timm_s_config_alone(timm_state, save_torch):
    hidden = r"cls_token|qkv\.bias"
    state = {name: value for name, value in timm_state().items() if not re.search(hidden, name)}
    state["pos_embed"] = state["pos_embed"][:, 1:]
    path = save_torch(state)
    with pytest.raises(UserError, match=r"vit_\*_rpn_\*, whose norms come behind"):
        convert(read(path), Options(), pixels="half")
    report = convert(read(path), Options(), pixels="half", layout=NAMES["timm"]).report
    assert report["config"]["model.vit.post_norm"] is False
    for architecture in ("vit_base_patch16_rpn_224", "eva02_enormous_patch14_clip_224"):
        config = json.dumps({"architecture": architecture, "num_features": 8})
        (path.parent / "config.json").write_text(config)
        report = convert(read(path), Options(heads=2), pixels="half").report
        assert report["config"]["model.vit.post_norm"] is True


@pytest.mark.parametrize(
    ("architecture", "width", "heads", "activation"),
    [
        ("vit_base_patch16_gap_224", 768, 16, "gelu"),
        ("vit_giant_patch14_reg1_tipsv2", 1536, 24, "gelu"),
        ("vit_giant_patch14_clip_224", 1408, 16, "gelu"),
        ("vit_so150m_patch16_reg4_gap_256", 896, 14, "gelu"),
        ("vit_so400m_patch14_siglip_384", 1152, 16, "gelu"),
        ("vit_so400m_patch16_siglip_gap_512", 1152, 16, "gelu_tanh"),
        ("vit_large_patch16_siglip_512", 1024, 16, "gelu_tanh"),
        ("vit_large_patch16_siglip_384", 1024, 16, "gelu"),
        ("vit_large_patch14_clip_quickgelu_336", 1024, 16, "quick_gelu"),
    ],
)
def test_timm_s_config_tells_heads_and_activation(tmp_path, architecture, width, heads, activation):
    """What timm 1.0.31's classes of these names have."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"architecture": architecture, "num_features": width}))
    found = read_model_config(path)
    assert (found.heads, found.activation) == (heads, activation)


def test_names_of_two_layouts_are_refused_with_both_named(timm_state, save_torch):
    state = timm_state() | {
        "decoder_embed.weight": np.ones((2, WIDTH), np.float32),
        "masked_embed": np.ones((1, WIDTH), np.float32),
    }
    path = save_torch(state)
    with pytest.raises(UserError, match=r"names of DINO, iBOT and MAE; say which with --from=dino"):
        convert(read(path), Options())
    assert convert(read(path), Options(), layout=NAMES["mae"]).report["layout"] == "MAE"


@pytest.mark.parametrize(
    "name",
    [
        *("blocks.1.attn.q_norm.weight", "blocks.0.attn.lambda_q1", "blocks.2.ls1.gamma"),
        *("blocks.3.attn.rope.freqs", "blocks.0.mlp.norm.weight", "blocks.0.attn.k_bias"),
        *("blocks.0.norm3.weight", "blocks.1.attn.rel_pos_h", "blocks.0.adapter.down.weight"),
    ],
)
def test_no_part_of_a_block_is_dropped_unsaid(timm_state, save_torch, name):
    """In one block alone too, and whatever is allowed."""
    size = 4 if "norm" in name and "attn" in name else WIDTH
    path = save_torch(timm_state() | {name: np.ones(size, np.float32)})
    with pytest.raises(UserError):
        convert(read(path), Options(heads=2), pixels="half", allow_unknown=True)


def test_a_folder_of_the_hub_and_its_shards(timm_state, tmp_path, expected):
    numpy = pytest.importorskip("safetensors.numpy")
    state = timm_state()
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    numpy.save_file(state, whole / "model.safetensors")
    assert_same(arrays_of(whole)[0], expected)
    names = sorted(state)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, some in shards.items():
        numpy.save_file({name: state[name] for name in some}, parts / file)
    index = {name: file for file, some in shards.items() for name in some}
    (parts / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert_same(arrays_of(parts)[0], expected)
    index["more.weight"] = "a.safetensors"
    (parts / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.raises(UserError, match=r"names more\.weight, which no file beside it holds"):
        read(parts)
    index["more.weight"] = "../a.safetensors"
    (parts / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.raises(UserError, match="files that are not beside it"):
        read(parts)
    with pytest.raises(UserError, match=r"must hold model\.safetensors"):
        read(tmp_path)


def test_unknown_tensors_are_listed_where_allowed(timm_state, save_torch, expected):
    state = timm_state() | {"adapter.weight": np.ones(4, np.float32)}
    arrays, report = arrays_of(save_torch(state), allow_unknown=True)
    assert_same(arrays, expected)
    assert report["unknown"] == ["adapter.weight"]


def test_a_file_of_no_layout_is_rejected(save_torch):
    path = save_torch({"layer1.0.conv1.weight": np.ones((2, 2), np.float32)})
    with pytest.raises(UserError, match=r"of no layout jaxdet knows \(detectron2, .*layer1"):
        convert(read(path), Options())


def test_every_tensor_is_in_one_of_the_three_lists(reference_file):
    for name in ("mae_tiny.pth", "beit_pretrained_tiny.pth"):
        source = read(reference_file(name))
        report = convert(source, Options(), pixels="half").report
        left = [entry["name"] for entry in report["left_out"]]
        listed = [*report["used"]["names"], *left, *report["unknown"]]
        assert sorted(listed) == sorted([*source.state, *source.beside])
        assert report["used"]["tensors"] == len(report["used"]["names"])
        assert report["used"]["parameters"] == sum(
            source.state[name].size for name in report["used"]["names"]
        )


def test_a_detector_that_lacks_a_part_is_rejected(shared, save_torch):
    torch = pytest.importorskip("torch")
    stored = torch.load(shared / "reference" / "maskrcnn_vitdet_tiny.pth", weights_only=True)
    whole = {name: value.numpy() for name, value in stored["model"].items()}
    for name, reason in (
        ("roi_heads.mask_head.predictor.bias", r"lacks what becomes mask_head\.logits\.bias"),
        ("roi_heads.box_head.conv2.norm.weight", r"becomes box_head\.convs\.1\.norm\.scale"),
        ("backbone.simfp_4.1.weight", r"becomes pyramid\.output\.2\.conv\.kernel"),
        ("backbone.net.blocks.1.mlp.fc1.bias", r"lacks blocks\.1\.mlp\.fc1\.bias"),
    ):
        path = save_torch(without(name)(whole))
        with pytest.raises(UserError, match=reason):
            convert(read(path), Options())
    for name, reason in (
        ("roi_heads.keypoint_head.deconv.weight", "1 tensors that .* detectron2 does not know"),
        ("roi_heads.box_head.0.fc1.bias", r"lacks what becomes box_head\.0\.deltas\.bias"),
    ):
        path = save_torch(whole | {name: np.ones(2, np.float32)})
        with pytest.raises(UserError, match=reason):
            convert(read(path), Options())


def test_back_to_timm_is_exact(timm_state, save_torch, tmp_path):
    state = timm_state()
    conversion = convert(read(save_torch(state)), Options(), pixels="half")
    back = to_timm(conversion.arrays, conversion.report)
    assert_same({name: tensor.read() for name, tensor in back.items()}, state)


def test_bicubic_of_an_unchanged_size_changes_nothing():
    maps = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
    np.testing.assert_allclose(resize_bicubic(maps, (4, 5)), maps, atol=1e-6)


def test_layout_names_are_distinct():
    assert len({layout.name for layout in LAYOUTS}) == len(LAYOUTS)
