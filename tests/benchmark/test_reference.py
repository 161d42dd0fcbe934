"""The published results: sound as data, and found by what a config holds."""

from __future__ import annotations

import pytest

from jaxdet.benchmark.reference import (
    CERTAINTIES,
    LEAST_TRAIN_IMAGES,
    LVIS_VAL,
    find,
    of_encoder,
    published,
    published_for,
    sources,
)
from jaxdet.config.files import load_config
from jaxdet.config.keys import INITIALISATIONS

RESULTS = pytest.mark.parametrize(
    "result", published(), ids=lambda r: f"{r.system} {r.backbone} {r.initialisation} {r.variant}"
)


ENCODERS = ("clip", "metaclip", "siglip", "siglip2", "eva02", "dinov2", "pe-core", "pe-spatial")


def identity(result):
    return (
        result.system,
        result.detector,
        result.backbone,
        result.initialisation,
        result.epochs,
        result.variant,
        result.data,
    )


@RESULTS
def test_every_result_is_sound(result):
    assert result.system in ("benchmark", "MIMDet", "ViTDet", "imTED", "Detectron2", "PE")
    assert result.detector in ("Mask R-CNN", "Cascade Mask R-CNN", "Faster R-CNN", None)
    known = (*INITIALISATIONS, "supervised-21k", *(ENCODERS if result.system == "PE" else ()))
    assert result.initialisation in (*known, None)
    assert result.epochs is None or 0 < result.epochs <= 400
    assert all(isinstance(text, str) and text for text in (result.backbone, result.variant))
    assert result.source in sources()
    assert result.where
    assert result.box_ap is not None
    for ap, certainty in (
        (result.box_ap, result.box_certainty),
        (result.mask_ap, result.mask_certainty),
    ):
        if ap is None:
            assert certainty is None
        else:
            assert certainty in CERTAINTIES
            assert isinstance(ap, float)
            assert 10 < ap < 65  # points, not shares
    assert result.mask_ap is None or result.mask_ap < result.box_ap
    assert result.data in LEAST_TRAIN_IMAGES
    assert result.rare_mask_ap is None or 10 < result.rare_mask_ap < result.mask_ap


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dinov2_vitl14", [("ViT-L", 55.7, 49.0), ("ViT-g", 57.2, 50.0)]),
        ("PE-Spatial-G14-448", [("ViT-G", 57.8, 50.3)]),
        ("vit_so400m_siglip2", [("ViT-SO400M", 56.0, 49.4), ("ViT-g", 57.1, 50.2)]),
        ("metaclip", [("ViT-G", 53.2, 46.7)]),
        ("dinov3_vits", []),
    ],
)
def test_encoders_are_found_by_the_name_of_an_initialisation(name, expected):
    found = [(each.backbone, each.box_ap, each.mask_ap) for each in of_encoder(name)]
    assert found == expected


def test_encoders_have_numbers_on_lvis():
    found = [(each.backbone, each.box_ap, each.mask_ap) for each in of_encoder("dinov2", LVIS_VAL)]
    assert found == [("ViT-L", 46.7, 43.5), ("ViT-g", 51.5, 47.3)]


def test_no_result_is_listed_twice():
    assert len({identity(result) for result in published()}) == len(published())


def test_every_source_is_used_and_has_an_address():
    assert {result.source for result in published()} == set(sources())
    assert all(source.title for source in sources().values())
    assert all(source.address.startswith("https://") for source in sources().values())


@pytest.mark.parametrize(
    ("fields", "box_ap", "mask_ap"),
    [
        (("benchmark", "ViT-B", "mae", 25), 48.1, 43.2),
        (("benchmark", "ViT-B", "mae", 50), 50.1, 44.6),
        (("benchmark", "ViT-B", "mae", 100), 50.3, 44.9),
        (("benchmark", "ViT-B", "random", 200), 48.9, 43.6),
        (("benchmark", "ViT-B", "supervised", 100), 47.9, 42.9),
        (("benchmark", "ViT-L", "mocov3", 100), 49.3, 44.0),
        (("benchmark", "ViT-L", "beit", 100), 53.3, 47.1),
        (("MIMDet", "ViT-B", "mae", 25), 48.0, 43.0),
        (("ViTDet", "ViT-L", "mae", 100), 55.6, 49.2),
        (("ViTDet", "ViT-H", "mae", 75), 56.7, 50.1),
        (("imTED", "ViT-S", "mae", 36), 48.7, 42.7),
        (("Detectron2", "ResNet-101", "random", 400), 48.9, 43.7),
    ],
)
def test_numbers_as_published(fields, box_ap, mask_ap):
    result = find(*fields)
    assert (result.box_ap, result.mask_ap) == (box_ap, mask_ap)


def test_variants_and_detectors_are_apart():
    find_vitdet = ("ViTDet", "ViT-B", "mae", 100)
    assert find(*find_vitdet, detector="Cascade Mask R-CNN").box_ap == 54.0
    assert find(*find_vitdet, variant="no relative position").box_ap == 51.2
    assert find("imTED", "ViT-B", "mae", 36, detector="Faster R-CNN").mask_ap is None


@pytest.mark.parametrize(
    ("name", "box_ap", "mask_ap", "rare"),
    [
        ("lvis_b", 40.1, 38.1, 29.1),
        ("lvis_l", 46.1, 43.5, 35.3),
        ("lvis_h", 49.1, 46.0, None),
        ("cascade_lvis_b", 43.0, 38.9, None),
        ("cascade_lvis_l", 49.2, 44.5, None),
        ("cascade_lvis_h", 51.5, 46.6, None),
    ],
)
def test_numbers_on_lvis_are_not_those_on_coco(name, box_ap, mask_ap, rare):
    result = published_for(load_config(name))
    assert result.data == LVIS_VAL
    assert (result.box_ap, result.mask_ap, result.rare_mask_ap) == (box_ap, mask_ap, rare)


@pytest.mark.parametrize(
    ("size", "single", "several"), [("b", 56.0, 57.3), ("l", 59.6, 60.4), ("h", 60.4, 61.3)]
)
def test_system_level_results_are_apart(size, single, several):
    config = load_config(f"system_{size}")
    assert published_for(config).box_ap == single
    config.model.detector.tta_sizes = (1024, 1280)
    assert published_for(config).box_ap == several
    config.model.detector.nms = "hard"
    assert published_for(config) is None


def test_what_is_remembered_or_derived_says_so():
    random = find("benchmark", "ViT-B", "random", 200)
    assert (random.box_certainty, random.mask_certainty) == ("verified", "memory")
    single = find("benchmark", "ViT-L", "mae", 50, variant="single scale")
    assert (single.box_certainty, single.mask_certainty) == ("derived", None)


def test_the_length_decides_where_it_is_published():
    assert find("benchmark", "ViT-B", "mae", 50).epochs == 50
    # Of ViT-L the mask AP is published for the best length alone.
    best = find("benchmark", "ViT-L", "mae", 50)
    assert (best.epochs, best.box_ap, best.mask_ap) == (None, 53.3, 47.2)
    assert find("benchmark", "ViT-B", "mae", 36) is None
    assert find("benchmark", "ViT-S", "mae", 100) is None


BENCHMARK = {
    "vitb_random": 48.9,
    "vitb_supervised": 47.9,
    "vitb_mocov3": 47.9,
    "vitb_beit": 49.8,
    "vitb_mae": 50.3,
    "vitl_random": 50.7,
    "vitl_supervised": 49.3,
    "vitl_mocov3": 49.3,
    "vitl_beit": 53.3,
    "vitl_mae": 53.3,
    "vitdet_b_mae": 51.6,
    "vitdet_l_mae": 55.6,
    "vitdet_h_mae": 56.7,
    "cascade_b": 54.0,
    "cascade_l": 57.6,
    "cascade_h": 58.7,
}


@pytest.mark.parametrize("name", BENCHMARK)
def test_every_config_of_the_benchmark_finds_its_number(name):
    assert published_for(load_config(name)).box_ap == BENCHMARK[name]


IMTED = {
    "imted_faster:s": (48.2, None),
    "imted_faster:b": (52.9, None),
    "imted_faster:l": (55.4, None),
    "imted_mask:s": (48.7, 42.7),
    "imted_mask:b": (53.3, 46.4),
    "imted_mask:l": (55.5, 48.1),
}


@pytest.mark.parametrize("name", IMTED)
def test_every_config_of_imted_finds_its_number(name):
    result = published_for(load_config(name))
    assert (result.system, result.box_ap, result.mask_ap) == ("imTED", *IMTED[name])


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 12.0},
        {"image_size": 1024},
        {"few_shot.novel": ("dog",)},
        {"model.decoder.depth": 4},
        {"model.decoder.start": "random"},
        {"model.heads.box_features": "encoder"},
        {"model.heads.norm": "layer"},
        {"model.vit.relative_position": "shared"},
        {"model.vit.out_indices": (23,)},
        {"model.vit.global_blocks": (5, 11, 17, 23)},
    ],
)
def test_another_imted_has_no_published_number(change):
    config = load_config("imted_mask:l")
    config.update_from_flattened_dict(change)
    assert published_for(config) is None


def test_configs_of_ablations_find_their_row():
    config = load_config("vitl_mae")
    config.epochs = 50.0
    config.model.vit.global_blocks = ()
    assert published_for(config).box_ap == 50.7
    config.model.vit.global_blocks = tuple(range(24))
    assert published_for(config).box_ap == 53.1
    config.model.vit.relative_position = "none"
    assert published_for(config) is None
    config.model.vit.global_blocks = (5, 11, 17, 23)
    assert published_for(config).box_ap == 53.0


def test_a_single_scale_finds_its_row():
    config = load_config("vitb_mae")
    config.update_from_flattened_dict({"epochs": 50.0, "model.pyramid.kind": "single"})
    assert published_for(config).box_ap == 48.4
    config.model.vit.relative_position = "none"
    assert published_for(config) is None


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("vitb_mae", {"model.vit.absolute_position": "random"}),
        ("vitb_mae", {"model.vit.absolute_position": "none"}),
        ("vitb_mae", {"initialisation": "my_mae"}),
        ("vitb_beit", {"model.vit.relative_start": "zero"}),
        ("vitb_beit", {"model.vit.absolute_position": "pretrained"}),
    ],
)
def test_another_start_has_no_published_number(name, change):
    config = load_config(name)
    config.update_from_flattened_dict(change)
    assert published_for(config) is None


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 512},
        {"data.name": "shapes"},
        {"model.vit.depth": 6},
        {"model.vit.global_blocks": (0, 1)},
        {"model.vit.relative_position": "decomposed"},
        {"model.heads.norm": "layer"},
        {"epochs": 7.0},
    ],
)
def test_another_model_or_task_has_no_published_number(change):
    config = load_config("vitb_mae")
    config.update_from_flattened_dict(change)
    assert published_for(config) is None


@pytest.mark.parametrize("name", ["shapes_tiny", "coco_small"])
def test_small_configs_have_no_published_number(name):
    assert published_for(load_config(name)) is None
