"""A trained detector as one StableHLO file that JAX runs without this package.

    jaxdet predict --workdir=runs/shapes_tiny --export=detector.stablehlo

and there, with nothing but JAX:

    detector = jax.export.deserialize(Path("detector.stablehlo").read_bytes())
    found = detector.call(image, image_hw)
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
from jax import export

from jaxdet.errors import UserError
from jaxdet.files import atomic_write
from jaxdet.inference.detector import Detector
from jaxdet.models.build import StatelessModel, build_detector

LARGEST_BYTES = 2**31
"""What JAX writes through flatbuffers, whose sizes are signed 32-bit numbers."""

PLATFORMS = ("cpu", "cuda", "tpu")


def export_detector(detector: Detector, batch: int) -> bytes:
    """The detector with its weights, for one device.

    It takes image uint8 [batch, S, S, 3], S = config.image_size, each image resized to fit the top
    left corner as `Detector.prepare` does, and image_hw int32 [batch, 2], the height and width they
    have there. It returns what `jaxdet.models.mask_rcnn.Detections` holds under the same names,
    without masks where the detector has none.

    Raises:
        UserError: the detector takes images of several sizes, flatbuffers is not installed, or the
            weights are too large for the format.
    """
    config = detector.config.copy_and_resolve_references()
    if config.model.detector.tta_sizes:
        raise UserError(
            "config.model.detector.tta_sizes must be empty for a StableHLO file, which detects at "
            "config.image_size; leave test-time augmentation out"
        )
    if config.model.detector.pad_multiple:
        raise UserError(
            "config.model.detector.pad_multiple must be 0 for a StableHLO file, which takes images "
            "of one shape, the square of config.image_size"
        )
    if config.model.vit.attention == "auto":
        config.model.vit.attention = "xla"
    params, stats = jax.device_get((detector.params, detector.stats))
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves((params, stats)))
    if weights >= LARGEST_BYTES:
        raise UserError(
            f"the detector's weights take {weights / 1e9:.2f} GB, and a StableHLO file holds less "
            f"than {LARGEST_BYTES / 1e9:.2f}; export a smaller detector"
        )
    # Built again, because the detector's own model is made for all devices of this machine.
    stateless = StatelessModel(lambda rngs: build_detector(config, len(detector.categories), rngs))

    def detect(image: jax.Array, image_hw: jax.Array) -> dict[str, jax.Array]:
        model = stateless.bind(*jax.tree.map(jnp.asarray, (params, stats)))
        found = model.detect({"image": image, "image_hw": image_hw})._asdict()
        return {name: value for name, value in found.items() if value is not None}

    shapes = (
        jax.ShapeDtypeStruct((batch, config.image_size, config.image_size, 3), jnp.uint8),
        jax.ShapeDtypeStruct((batch, 2), jnp.int32),
    )
    # cuDNN's attention is a call of NVIDIA's library; everything else is StableHLO.
    platforms = ("cuda",) if config.model.vit.attention == "cudnn" else PLATFORMS
    exported = export.export(jax.jit(detect), platforms=platforms)(*shapes)
    try:
        return bytes(exported.serialize())
    except ImportError as error:
        raise UserError(
            f"JAX cannot write the file ({error}); pip install -c constraints.txt -e '.[export]'"
        ) from error


def write_exported(detector: Detector, batch: int, path: Path) -> None:
    """Writes the file whole or not at all, and prints how to call it.

    Raises:
        UserError: it cannot be written.
    """
    content = export_detector(detector, batch)
    with atomic_write(path) as partial:
        partial.write_bytes(content)
    side = detector.config.image_size
    print(
        f"{path}, {len(content) / 1e6:.1f} MB: call(image uint8 [{batch}, {side}, {side}, 3], "
        f"image_hw int32 [{batch}, 2])"
    )
