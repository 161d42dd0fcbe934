"""The sheets of example detections."""

from __future__ import annotations

from PIL import Image

from jaxdet.benchmark.reporting.examples import LARGEST_EXAMPLE, small_sheet


def test_sheets_are_made_small_and_broken_ones_left_out(tmp_path):
    noise = Image.effect_noise((2400, 1200), 100).convert("RGB")
    noise.save(tmp_path / "noise.png")
    content = small_sheet(tmp_path / "noise.png")
    assert 0 < len(content) <= LARGEST_EXAMPLE
    (tmp_path / "broken.png").write_bytes((tmp_path / "noise.png").read_bytes()[:5000])
    assert small_sheet(tmp_path / "broken.png") is None
    assert small_sheet(tmp_path / "missing.png") is None
    Image.new("RGB", (100, 20_000)).save(tmp_path / "long.png")  # WebP ends at 16383
    assert small_sheet(tmp_path / "long.png") is None
