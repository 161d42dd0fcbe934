"""The exported file: JAX alone runs it, and it finds what the detector finds."""

from __future__ import annotations

import jax
import numpy as np

from jaxdet.predict import main


def test_the_exported_detector_finds_the_same(finished, detector, tmp_path, capsys):
    experiment, _ = finished
    path = tmp_path / "detector.stablehlo"
    assert main([f"--workdir={experiment.workdir}", "--batch=2", f"--export={path}"]) == 0
    assert "call(image uint8 [2, 64, 64, 3], image_hw int32 [2, 2])" in capsys.readouterr().out
    exported = jax.export.deserialize(path.read_bytes())
    assert exported.platforms == ("cpu", "cuda", "tpu")

    images = [experiment.val_set[index].image for index in (0, 1)]
    prepared = [detector.prepare(image) for image in images]
    found = exported.call(
        *(np.concatenate([one[name] for one in prepared]) for name in ("image", "image_hw"))
    )
    assert {name: value.shape for name, value in found.items()} == {
        "boxes": (2, 10, 4),
        "scores": (2, 10),
        "labels": (2, 10),
        "valid": (2, 10),
        "masks": (2, 10, 28, 28),
    }
    for row, prediction in enumerate(detector.predict(images)):
        valid = np.asarray(found["valid"][row])
        height, width = prediction.image.shape[:2]
        scale = np.array([height, width]) / prepared[row]["image_hw"][0]
        boxes = np.asarray(found["boxes"][row])[valid] * np.tile(scale[::-1], 2)
        np.testing.assert_allclose(boxes, prediction.boxes, atol=1e-3)
        np.testing.assert_allclose(found["scores"][row][valid], prediction.scores, atol=1e-5)
        np.testing.assert_array_equal(found["labels"][row][valid], prediction.labels)


def test_without_flatbuffers_the_fix_is_named(finished, tmp_path, monkeypatch, capsys):
    def serialize(self):
        raise ImportError("Please install 'flatbuffers'")  # as JAX does

    monkeypatch.setattr(jax.export.Exported, "serialize", serialize)
    path = tmp_path / "detector.stablehlo"
    assert main([f"--workdir={finished[0].workdir}", "--batch=2", f"--export={path}"]) == 2
    assert "'.[export]'" in capsys.readouterr().err
    assert not path.exists()
