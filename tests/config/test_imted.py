"""imTED's recipes as its code has them, and the sizes its detectors are known to have."""

from __future__ import annotations

import pytest

from jaxdet.config.files import find_config, load_config
from jaxdet.config.imted import PARTS
from jaxdet.config.mask_rcnn import check
from jaxdet.config.old_names import OLD_CONFIGS
from jaxdet.config.published_weights import how_to_get
from jaxdet.errors import UserError
from jaxdet.models.build import StatelessModel, build_detector, parameter_count

PARAMETERS = {
    ("faster", "s"): 30.30,
    ("faster", "b"): 122.74,
    ("faster", "l"): 346.21,
    ("mask", "s"): 32.94,
    ("mask", "b"): 125.39,
    ("mask", "l"): 348.85,
}
"""Millions in the official models."""

DROP_PATH = {"s": 0.1, "b": 0.2, "l": 0.3}


@pytest.mark.parametrize(("kind", "size"), PARAMETERS)
def test_a_config_is_the_published_detector(kind, size):
    config = load_config(f"imted_{kind}:{size}")
    stateless = StatelessModel(lambda rngs: build_detector(config, 80, rngs))
    count = parameter_count(stateless.abstract[0])
    assert round(count / 1e6, 2) == PARAMETERS[kind, size]

    vit, optim = config.model.vit, config.optim
    assert vit.drop_path == DROP_PATH[size]
    assert (vit.class_token, vit.relative_position, vit.resize_offset) == (True, "none", 0.1)
    assert vit.global_blocks == tuple(range(vit.depth))
    assert (config.epochs, config.batch_size) == (36, 16)
    assert [round(share * 36) for share in optim.milestones] == [27, 33]
    assert (optim.lr, optim.weight_decay, optim.layer_decay) == (1e-4, 0.05, 0.75)
    steps_per_epoch = 118_000 / 16
    assert round(optim.warmup_epochs * steps_per_epoch) == 500
    assert config.data.augmentation == "multiscale"
    detector = config.model.detector
    assert (detector.box_loss, detector.box_loss_weight) == ("giou", 10.0)
    docstring = find_config(f"imted_{kind}").read_text().split('"""')[1]
    assert "jaxdet convert --target=imted" in docstring
    if size != "s":
        assert config.weights.file in docstring
        assert f"--target=imted {config.weights.file}" in how_to_get(config)


def test_the_long_recipe_of_vit_l():
    config = load_config("imted_mask:l_100ep")
    assert (config.epochs, config.batch_size, config.model.vit.drop_path) == (100, 8, 0.4)
    assert (config.optim.weight_decay, config.optim.layer_decay) == (0.1, 0.8)
    assert [round(share * 100) for share in config.optim.milestones] == [89, 96]


@pytest.mark.parametrize("step", [*PARTS, "pyramid_random"])
def test_the_ladder_differs_in_its_parts_alone(step):
    config = load_config(f"imted_ladder:{step}")
    heads = config.model.heads
    name = step.removesuffix("_random")
    assert {"box": heads.box, "box_features": heads.box_features} == PARTS[name]
    assert config.model.decoder.start == ("random" if name != step else "pretrained")
    top = load_config("imted_ladder:modulated")
    for each in (config, top):
        each.model.heads.update(**PARTS["modulated"], norm="none")
        each.model.decoder.start = "pretrained"
    assert config == top


def test_the_two_stages_of_few_shot_detection():
    base = load_config("imted_base")
    assert base.epochs == 24
    assert [round(share * 24) for share in base.optim.milestones] == [18, 22]
    assert len(base.few_shot.novel) == 20
    for shots in (10, 30):
        tuned = load_config(f"imted_fewshot:{shots}")
        assert tuned.epochs == 108
        assert [round(share * 108) for share in tuned.optim.milestones] == [81, 99]
        assert tuned.optim.decoder_layer_decay == 0.8
        assert round(tuned.optim.warmup_epochs * 80 * shots / 16) == 500
        assert tuned.model == base.model


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model.vit.global_blocks", (1, 0)),
        ("model.vit.out_indices", ()),
        ("model.decoder.heads", 7),
        ("model.decoder.start", "zero"),
        ("model.heads.box", "fc"),
        ("model.heads.box_features", "all"),
        ("model.heads.roi_chunks", 0),
        ("model.detector.box_loss", "iou"),
        ("optim.frozen", ("(",)),
        ("optim.decoder_layer_decay", 0.0),
        ("few_shot.novel", (1,)),
    ],
)
def test_a_wrong_value_is_named(name, value):
    config = load_config("imted_mask:b")
    check(config)
    config.update_from_flattened_dict({name: value})
    with pytest.raises(UserError) as raised:
        check(config)
    assert f"config.{name}=" in str(raised.value)


def test_chunks_of_rois_and_two_sources_of_weights_are_rejected(tmp_path):
    config = load_config("vitb_mae")
    config.model.heads.roi_chunks = 2
    with pytest.raises(UserError, match=r"roi_chunks=2 must be 1 for a box head with batch norm"):
        check(config)
    config = load_config("imted_fewshot:10")
    config.few_shot.base_run = str(tmp_path)
    check(config)
    (tmp_path / "weights.npz").touch()
    config.init = str(tmp_path / "weights.npz")
    with pytest.raises(UserError, match=r"few_shot\.base_run=.* leave one of them out"):
        check(config)


@pytest.mark.parametrize("name", ["imted_mask", "imted_faster", "imted_ladder"])
def test_an_unknown_variant_is_named(name):
    with pytest.raises(UserError, match=r"there is no variant 'xl'; give one of "):
        load_config(f"{name}:xl")


@pytest.mark.parametrize(("old", "new"), OLD_CONFIGS.items())
def test_an_old_name_is_the_same_config(old, new):
    assert load_config(old) == load_config(new)
