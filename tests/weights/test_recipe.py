"""The config that a file of converted weights asks for."""

from __future__ import annotations

import numpy as np
import pytest

from jaxdet.config.command_line import add_short_flags, config_of, parse_with_config
from jaxdet.config.mask_rcnn import check
from jaxdet.errors import UserError
from jaxdet.flags import Parser
from jaxdet.weights.recipe import recipe_for
from tests.weights.converted import report, save

DINOV3 = {
    "width": 384,
    "depth": 12,
    "heads": 6,
    "patch": 16,
    "rope": "dinov3",
    "rope_base": 100.0,
    "norm_eps": 1e-5,
    "qkv_bias": "none",
    "layer_scale": True,
    "class_token": True,
    "registers": 4,
    "final_norm": True,
}


def write(path, keys, arrays=None, **changes):
    config = {f"model.vit.{key}": value for key, value in keys.items()}
    arrays = {"backbone.patch_embed.kernel": np.ones((2, 2))} if arrays is None else arrays
    save(path, arrays, report(config=config, **changes))
    return path


def test_a_rotary_vit_needs_no_further_key(tmp_path):
    file = write(tmp_path / "DINOv3 S.npz", DINOV3, pixel_mean=[1.0, 2, 3])
    config = recipe_for(file)
    check(config)
    vit = config.model.vit
    assert (vit.width, vit.depth, vit.heads, vit.rope) == (384, 12, 6, "dinov3")
    assert (vit.absolute_position, vit.relative_position) == ("none", "none")
    assert (vit.layer_scale, vit.norm_eps, vit.drop_path) == (1.0, 1e-5, 0.1)
    assert (vit.class_token, vit.registers, vit.final_norm) == (False, 0, False)
    assert config.model.detector.pixel_mean == (1.0, 2.0, 3.0)
    assert config.initialisation == "dinov3_s"
    assert config.init == str(file)


def test_depth_patch_and_positions_are_the_file_s(tmp_path):
    keys = {"width": 1024, "depth": 24, "heads": 16, "patch": 14}
    arrays = {"backbone.pos_embed": np.ones((37, 37, 4))}
    config = recipe_for(write(tmp_path / "mae.npz", keys, arrays))
    vit = config.model.vit
    assert (vit.pretrain_grid, vit.absolute_position) == (37, "pretrained")
    assert (vit.drop_path, vit.out_indices) == (0.3, (5, 11, 17, 23))
    assert (config.image_size, config.model.detector.strides) == (1036, (3.5, 7, 14, 28, 56))
    assert config.initialisation == "own_mae"


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        ("backbone.rel_pos_window.table", "shared"),
        ("backbone.blocks.0.rel_pos.height", "decomposed"),
    ],
)
def test_relative_tables_of_the_file_are_taken(tmp_path, table, kind):
    keys = {"width": 768, "depth": 12, "heads": 12}
    vit = recipe_for(write(tmp_path / "beit.npz", keys, {table: np.ones((3, 2))})).model.vit
    assert (vit.relative_position, vit.relative_start) == (kind, "pretrained")
    assert vit.absolute_position == "random"


def test_what_the_report_proposes_is_taken(tmp_path):
    proposed = {"model.vit.resize": "antialias", "model.vit.global_blocks": [1, 3], "model.seed": 1}
    keys = {"width": 48, "depth": 4, "heads": 2}
    config = recipe_for(write(tmp_path / "a.npz", keys, recipe=proposed))
    assert (config.model.vit.resize, config.model.vit.global_blocks) == ("antialias", (1, 3))
    assert config.model.pyramid.groups == 16


def test_heads_that_nobody_knows_are_a_guess_that_is_said(tmp_path, capsys):
    config = recipe_for(write(tmp_path / "a.npz", {"width": 384, "depth": 12}))
    assert config.model.vit.heads == 6
    assert "6 is a guess" in capsys.readouterr().out


def test_the_command_line_needs_init_and_data_alone(tmp_path):
    file = write(tmp_path / "small.npz", DINOV3)
    parser = Parser("jaxdet train", None)
    add_short_flags(parser)
    flags = ["--config=any", f"--init={file}", f"--data={tmp_path}", "--config.model.vit.heads=3"]
    options, config = parse_with_config(parser, flags, "own")
    assert (config.model.vit.width, config.model.vit.heads) == (384, 3)
    assert config.data.root == str(tmp_path)
    assert options.workdir.as_posix() == "runs/any_small"
    assert config_of([f"--config=any:{file}"]).model.vit.heads == 6


@pytest.mark.parametrize(
    ("keys", "arrays", "reason"),
    [
        (DINOV3 | {"depth": 10**9}, None, "model.vit.depth must be from 4 to 1000"),
        (DINOV3 | {"width": "wide"}, None, "model.vit.width='wide' is of a wrong type"),
        (DINOV3 | {"heads": 7}, None, "heads"),
        (DINOV3 | {"patch": 0}, None, "patch"),
        (DINOV3 | {"wings": 2}, None, "wings"),
        (DINOV3, {"rpn.bias": np.ones(2)}, "holds a whole detector"),
    ],
)
def test_a_report_is_not_trusted(tmp_path, keys, arrays, reason):
    with pytest.raises(UserError, match=reason):
        recipe_for(write(tmp_path / "a.npz", keys, arrays))


def test_a_file_that_is_none_is_named(tmp_path):
    with pytest.raises(UserError, match="is not a file; give what"):
        recipe_for(tmp_path / "nothing.npz")
    save(tmp_path / "bare.npz", {"backbone.pos_embed": np.ones(2)})
    with pytest.raises(UserError, match="has no report"):
        recipe_for(tmp_path / "bare.npz")
