"""The benchmark's recipes as published, and the errors of a config that is wrong."""

from __future__ import annotations

import math
from pathlib import Path

import jax
import pytest
from ml_collections import ConfigDict

from jaxdet.config.files import load_config
from jaxdet.config.mask_rcnn import benchmark, check
from jaxdet.config.published_weights import how_to_get
from jaxdet.config.values import unknown_key
from jaxdet.errors import UserError
from jaxdet.models.build import StatelessModel, build_detector

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

LR_AND_WEIGHT_DECAY = {
    "random": (1.6e-4, 0.2),
    "supervised": (8e-5, 0.1),
    "mocov3": (1.6e-4, 0.1),
    "beit": (8e-5, 0.1),
    "mae": (8e-5, 0.1),
}
"""What arXiv 2111.11429 found on ViT-B (section 4.2) and uses for ViT-L too."""

DROP_PATH = {"b": 0.1, "l": 0.3}

SIZES = {
    "b": {
        "width": 768,
        "depth": 12,
        "heads": 12,
        "global_blocks": (2, 5, 8, 11),
        "out_indices": (2, 5, 8, 11),
    },
    "l": {
        "width": 1024,
        "depth": 24,
        "heads": 16,
        "global_blocks": (5, 11, 17, 23),
        "out_indices": (5, 11, 17, 23),
    },
}

EPOCHS = {"random": (100, 200, 400), "pre-trained": (25, 50, 100)}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_every_config_is_valid(path):
    check(load_config(path))


def test_no_benchmark_config_is_missing():
    names = {path.stem for path in CONFIGS.glob("vit[bl]_*.py")}
    assert names == {f"vit{size}_{name}" for size in SIZES for name in LR_AND_WEIGHT_DECAY}


@pytest.mark.parametrize("initialisation", LR_AND_WEIGHT_DECAY)
@pytest.mark.parametrize("size", SIZES)
def test_benchmark_config_is_the_published_recipe(size, initialisation):
    config = load_config(CONFIGS / f"vit{size}_{initialisation}.py")
    assert config.initialisation == initialisation
    assert (config.optim.lr, config.optim.weight_decay) == LR_AND_WEIGHT_DECAY[initialisation]
    assert config.optim.betas == (0.9, 0.999)
    assert config.optim.warmup_epochs == 0.25
    assert config.image_size == 1024
    assert config.batch_size == 64
    assert config.data.scale_range == (0.1, 2.0)
    assert config.epochs in EPOCHS["random" if initialisation == "random" else "pre-trained"]

    vit = config.model.vit
    assert vit.drop_path == DROP_PATH[size]
    assert {name: vit[name] for name in SIZES[size]} == SIZES[size]
    assert (vit.patch, vit.window, vit.pretrain_grid) == (16, 14, 14)
    assert vit.relative_position == "shared"
    assert (config.model.pyramid.kind, config.model.heads.norm) == ("fpn", "batch")
    assert (config.optim.schedule, config.optim.layer_decay) == ("cosine", 1.0)
    is_beit = initialisation == "beit"
    assert vit.qkv_bias == ("qv" if is_beit else "qkv")
    assert (vit.layer_scale is not None) == is_beit


VITDET = {
    "b": (768, 12, 0.1, 100, 0.7),
    "l": (1024, 24, 0.4, 100, 0.8),
    "h": (1280, 32, 0.5, 75, 0.9),
}
"""Width, depth, drop path, epochs and layer decay of arXiv 2203.16527's table 11 and text."""


@pytest.mark.parametrize("size", VITDET)
def test_vitdet_config_is_the_published_recipe(size):
    config = load_config(CONFIGS / f"vitdet_{size}_mae.py")
    vit, optim = config.model.vit, config.optim
    found = (vit.width, vit.depth, vit.drop_path, config.epochs, optim.layer_decay)
    assert found == VITDET[size]
    assert (optim.lr, optim.weight_decay, optim.schedule) == (1e-4, 0.1, "step")
    assert (config.image_size, config.batch_size) == (1024, 64)
    steps = 184375
    assert [round(share * steps) for share in optim.milestones] == [163889, 177546]
    assert vit.relative_position == "decomposed"
    assert (config.model.pyramid.kind, config.model.heads.norm) == ("simple", "layer")


LVIS = {
    "b": (768, 12, 0.1, 2e-4, 0.7),
    "l": (1024, 24, 0.4, 2e-4, 0.8),
    "h": (1280, 32, 0.4, 1e-4, 0.9),
}
"""Width, depth, drop path, rate and layer decay of Detectron2's configs for LVIS."""


@pytest.mark.parametrize("size", LVIS)
def test_lvis_config_is_the_published_recipe(size):
    config = load_config(CONFIGS / f"lvis_{size}.py")
    vit, optim, detector = config.model.vit, config.optim, config.model.detector
    assert (vit.width, vit.depth, vit.drop_path, optim.lr, optim.layer_decay) == LVIS[size]
    assert (config.epochs, config.batch_size, optim.weight_decay) == (100, 64, 0.1)
    steps = 156250
    assert [round(share * steps) for share in optim.milestones] == [138889, 150463]
    assert optim.warmup_epochs * 100_000 / 64 == 250
    assert (config.data.metric, config.data.repeat_threshold) == ("lvis", 0.001)
    assert (detector.score_threshold, detector.detections) == (0.02, 300)
    assert (detector.class_loss, detector.federated_classes) == ("sigmoid", 50)
    assert detector.federated_power == 0.5

    cascade = load_config(CONFIGS / f"cascade_lvis_{size}.py")
    assert cascade.model.heads.cascade_thresholds == (0.6, 0.7)
    cascade.model.heads = config.model.heads
    assert cascade.to_json() == config.to_json()


def expected_parameters(width: int, depth: int, heads: int) -> int:
    """The detector of the paper's section 2 counted by hand, for 80 classes."""

    def conv(inputs, outputs, kernel, extra):
        """`extra` numbers an output: one for a bias, two for a norm's scale and bias."""
        return outputs * (inputs * kernel**2 + extra)

    attention = 4 * (width + 1) * width
    mlp = (width + 1) * 4 * width + (4 * width + 1) * width
    vit = depth * (attention + mlp + 2 * 2 * width)
    vit += conv(3, width, 16, 1) + 14 * 14 * width
    vit += (27 * 27 + 127 * 127) * heads
    pyramid = 3 * conv(width, width, 2, 0) + 3 * width + 2 * width
    pyramid += 4 * (conv(width, 256, 1, 2) + conv(256, 256, 3, 2))
    rpn = 2 * conv(256, 256, 3, 1) + conv(256, 3, 1, 1) + conv(256, 12, 1, 1)
    box = 4 * conv(256, 256, 3, 2) + (7 * 7 * 256 + 1) * 1024 + 1025 * (81 + 320)
    mask = 4 * conv(256, 256, 3, 2) + conv(256, 256, 2, 1) + conv(256, 80, 1, 1)
    return vit + pyramid + rpn + box + mask


@pytest.mark.parametrize(("size", "published"), [("b", "116 M"), ("l", "339 M")])
def test_parameter_count_is_the_published_one(size, published):
    config = load_config(CONFIGS / f"vit{size}_mae.py")
    stateless = StatelessModel(lambda rngs: build_detector(config, 80, rngs))
    params, _ = jax.eval_shape(stateless.init, jax.random.key(0))
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    vit = config.model.vit
    assert count == expected_parameters(vit.width, vit.depth, vit.heads)
    assert f"{count / 1e6:.0f} M" == published
    assert round(count / 1e6, 2) == {"b": 115.68, "l": 339.01}[size]


@pytest.fixture
def config() -> ConfigDict:
    return benchmark("b", "mae", lr=1e-4, weight_decay=0.1, drop_path=0.1, epochs=10.0)


WRONG = [
    ("data.name", "cifar"),
    ("initialisation", "My MAE"),
    ("initialisation", "../mae"),
    ("initialisation", ""),
    ("batch_size", 0),
    ("eval_batch_size", 0),
    ("epochs", 0.0),
    ("eval_every", 0.0),
    ("checkpoint_every", -1.0),
    ("log_every_steps", 0),
    ("data.max_instances", 0),
    ("data.mask_size", 27),
    ("data.threads", 0),
    ("data.scale_range", (0.0, 2.0)),
    ("data.scale_range", (2.0, 0.1)),
    ("data.scale_range", (1.0,)),
    ("model.dtype", "float16"),
    ("model.vit.out_indices", (2, 5, 8)),
    ("model.vit.out_indices", (5, 2, 8, 11)),
    ("model.vit.out_indices", (2, 5, 8, 12)),
    ("model.vit.relative_position", "sinusoidal"),
    ("model.vit.attention", "flash"),
    ("model.vit.remat", "all"),
    ("model.vit.relative_start", "random"),
    ("model.vit.absolute_position", "learned"),
    ("model.vit.activation", "relu"),
    ("model.pyramid.kind", "bifpn"),
    ("model.detector.nms", "soft"),
    ("model.detector.nms_sigma", 0.0),
    ("eval_workers", -1),
    ("model.heads.norm", "group"),
    ("optim.schedule", "linear"),
    ("optim.milestones", (0.5, 1.5)),
    ("optim.layer_decay", 0.0),
    ("model.vit.depth", 0),
    ("model.vit.heads", 7),
    ("model.vit.heads", 0),
    ("model.vit.patch", 3),
    ("model.vit.patch", 0),
    ("model.vit.qkv_bias", "kv"),
    ("model.vit.global_blocks", (12,)),
    ("model.vit.global_blocks", (-1,)),
    ("model.vit.drop_path", 1.0),
    ("model.vit.drop_path", -0.1),
    ("model.pyramid.groups", 7),
    ("model.pyramid.groups", 0),
    ("image_size", 1000),
    ("image_size", 0),
    ("model.detector.strides", (4, 8, 16, 32)),
    ("model.detector.anchor_sizes", (32.0, 64.0)),
    ("optim.lr", 0.0),
    ("optim.lr", float("inf")),
    ("optim.weight_decay", -1.0),
    ("optim.betas", (0.9,)),
    ("optim.no_decay", ("(",)),
    ("seed", -1),
    ("epochs", float("inf")),
    ("data.scale_range", ("a", "b")),
    ("model.vit.window", 0),
    ("model.vit.pretrain_grid", 0),
    ("model.vit.global_blocks", (1, "a")),
    ("model.vit.out_indices", (0, 1, 2, 3)),
    ("model.pyramid.channels", 0),
    ("model.heads.box_convs", -1),
    ("model.detector.detections", 0),
    ("model.detector.roi_batch", 1),
    ("model.detector.aspect_ratios", ()),
    ("model.detector.sampling_ratio", -1),
    ("model.detector.pixel_std", (0.0, 1.0, 1.0)),
    ("model.detector.score_threshold", 2.0),
    ("model.detector.nms_sigma", 1e-300),
    ("model.detector.tta_sizes", (1000,)),
    ("model.detector.tta_sizes", (1024, 1024)),
    ("model.detector.pad_multiple", 48),
    ("model.detector.pad_multiple", 256),  # beside a shared table of relative positions
    ("model.heads.cascade_thresholds", (0.6,) * 9),
    ("optim.no_decay", (1,)),
    ("optim.warmup_epochs", -1.0),
    ("init", "no/such/file.npz"),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_value_is_named(config, name, value):
    check(config)
    config.update_from_flattened_dict({name: value})
    with pytest.raises(UserError) as raised:
        check(config)
    assert f"config.{name}={value!r}" in str(raised.value)


def test_a_single_scale_takes_two_keys(config):
    changes = {"model.pyramid.kind": "single", "model.detector.strides": (16,)}
    config.update_from_flattened_dict(changes)
    check(config)
    config.model.heads.box_features = "encoder"
    with pytest.raises(UserError, match=r"box_features='encoder' must be 'pyramid'"):
        check(config)
    config.model.heads.box_features = "pyramid"
    config.model.detector.strides = (4, 8, 16, 32, 64)
    with pytest.raises(UserError, match=r"strides=.* must be \(16,\)"):
        check(config)


def test_patches_of_14_pixels_take_three_keys(config):
    changes = {"model.vit.patch": 14, "image_size": 1036}
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=r"strides=.* must be \(3\.5, 7, 14, 28, 56\) for this"):
        check(config)
    config.model.detector.strides = (3.5, 7, 14, 28, 56)
    check(config)
    config.image_size = 1024
    with pytest.raises(UserError, match=r"multiple of 28 \(2 \* .*\); 1036 is the nearest"):
        check(config)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rope": "pe", "heads": 128}, r"rope='pe' must .* / heads, 6, is a multiple of 4"),
        (
            {"rope": "dinov3", "relative_position": "decomposed"},
            "relative_position='decomposed' must be 'shared' or 'none'",
        ),
        ({"resize": "radio", "resize_offset": 0.1}, r"resize_offset=0\.1 must be 0"),
    ],
)
def test_parts_of_a_vit_that_do_not_fit_together(config, changes, reason):
    config.model.vit.update(changes)
    with pytest.raises(UserError, match=reason):
        check(config)


def test_a_config_file_cannot_invent_keys(config):
    for section, name in ((config, "epoch"), (config.optim, "lrr"), (config.model.detector, "iou")):
        with pytest.raises((AttributeError, KeyError)):
            setattr(section, name, 1)
        with pytest.raises((AttributeError, KeyError)):
            section.update({name: 1})


def test_weights_for_a_random_start_are_rejected(config, tmp_path):
    weights = tmp_path / "weights.npz"
    weights.touch()
    config.init = str(weights)
    check(config)
    config.initialisation = "random"
    with pytest.raises(UserError, match=r"config\.init .* config\.initialisation is 'random'"):
        check(config)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("optm.lr", "config has no key 'optm'; did you mean config.optim?"),
        (
            "model.vit.widht",
            "config.model.vit has no key 'widht'; did you mean config.model.vit.w",
        ),
        (
            "optim.zzz",
            "config.optim has no key 'zzz'; it has betas, decoder_layer_decay, frozen, "
            "layer_decay, lr, milestones, no_decay, schedule, train, warmup_epochs",
        ),
        (
            "optim.lr.start",
            "config.optim.lr has no key 'start'; config.optim.lr is a single value",
        ),
    ],
)
def test_an_unknown_key_is_named_with_a_hint(config, name, hint):
    assert unknown_key(config, name).startswith(hint)


@pytest.mark.parametrize("name", ["seed", "init", "model", "model.vit.width", "data.shapes"])
def test_a_known_key_is_not_unknown(config, name):
    assert unknown_key(config, name) is None


POSITION = {
    "random": ("random", "zero"),
    "supervised": ("pretrained", "zero"),
    "mocov3": ("pretrained", "zero"),
    "beit": ("random", "pretrained"),
    "mae": ("pretrained", "zero"),
}
"""Where arXiv 2111.11429 starts the absolute embedding and the relative biases."""


@pytest.mark.parametrize("initialisation", POSITION)
@pytest.mark.parametrize("size", SIZES)
def test_position_starts_as_the_paper_has_it(size, initialisation):
    config = load_config(CONFIGS / f"vit{size}_{initialisation}.py")
    vit, detector = config.model.vit, config.model.detector
    assert (vit.absolute_position, vit.relative_start) == POSITION[initialisation]
    assert vit.absolute_trainable
    assert vit.relative_trainable
    half = initialisation == "beit"
    assert detector.pixel_mean == ((127.5,) * 3 if half else (123.675, 116.28, 103.53))


@pytest.mark.parametrize("name", ["absolute_position", "relative_start"])
def test_a_random_start_has_nothing_pretrained(name):
    config = benchmark("b", "random", lr=1e-4, weight_decay=0.1, drop_path=0.1, epochs=10.0)
    check(config)
    config.model.vit[name] = "pretrained"
    with pytest.raises(UserError, match=rf"config\.model\.vit\.{name}='pretrained' must be"):
        check(config)


PUBLISHED = {
    "vitb_supervised": "deit_base_patch16_224-b5f2ef4d.pth",
    "vitl_supervised": None,
    "vitb_mocov3": "vit-b-300ep.pth.tar",
    "vitl_mocov3": None,
    "vitb_beit": "beit_base_patch16_224_pt22k.pth",
    "vitl_beit": "beit_large_patch16_224_pt22k.pth",
    "vitb_mae": "mae_pretrain_vit_base.pth",
    "vitl_mae": "mae_pretrain_vit_large.pth",
    "vitdet_b_mae": "mae_pretrain_vit_base.pth",
    "vitdet_l_mae": "mae_pretrain_vit_large.pth",
    "vitdet_h_mae": "mae_pretrain_vit_huge.pth",
    "cascade_b": "mae_pretrain_vit_base.pth",
    "cascade_l": "mae_pretrain_vit_large.pth",
    "cascade_h": "mae_pretrain_vit_huge.pth",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_config_says_where_its_weights_come_from(name):
    path = CONFIGS / f"{name}.py"
    config = load_config(path)
    assert config.weights.file == PUBLISHED[name]
    sentence, docstring = how_to_get(config), path.read_text().split('"""')[1]
    for text in (sentence, docstring):
        assert "jaxdet convert" in text
        assert config.weights.file is not None or "never published" in " ".join(text.split())
    if config.weights.file is not None:
        assert config.weights.file in docstring
        assert config.weights.source in sentence
        assert config.weights.source.split(",")[0].endswith(config.weights.file)
        options = config.weights.options or ""
        assert f"jaxdet convert {options}".strip() in docstring


def test_an_initialisation_may_have_a_name_of_its_own():
    config = load_config(CONFIGS / "own.py")
    config.initialisation = "clip-b.v2"
    check(config)
    vit = config.model.vit
    assert (vit.absolute_position, vit.relative_start) == ("pretrained", "zero")
    assert set(config.weights.values()) == {None}


@pytest.mark.parametrize("name", ["own", "vitb_mae"])
def test_nothing_is_said_to_be_published_of_an_own_initialisation(name, tmp_path):
    config = load_config(CONFIGS / f"{name}.py")
    config.initialisation = "my_mae"
    sentence = how_to_get(config)
    assert sentence.startswith("no published file belongs to this config: convert one with")
    assert "1600" not in sentence


def test_a_missing_file_of_weights_is_explained(config):
    config.init = "/nowhere/mae.npz"
    with pytest.raises(UserError) as raised:
        check(config)
    message = str(raised.value)
    assert message.startswith("config.init='/nowhere/mae.npz' is not a file; download mae_pretrain")
    assert "jaxdet convert mae_pretrain_vit_base.pth" in message
    assert "1600 epochs" in message


def test_a_config_file_may_raise_anything(tmp_path):
    path = tmp_path / "own.py"
    mute = "class Mute:\n    def __repr__(self): raise RuntimeError\n    __str__ = __repr__\n"
    for line in ("raise SystemExit(Mute())", "raise SystemExit(3)", "raise Exception('x' * 9999)"):
        path.write_text(f"{mute}{line}\n")
        with pytest.raises(UserError, match=r"own\.py cannot be used") as raised:
            load_config(path)
        assert len(str(raised.value)) < 500 + len(str(path))
