"""A tiny detector on the built-in shapes: no download, minutes on two CPU cores.

    jaxdet train --workdir=runs/shapes_tiny

The parts are the benchmark's, smaller: patches of 8 pixels on images of 64, four blocks, and
32 channels behind the backbone.
"""

from ml_collections import ConfigDict

from jaxdet.config import shapes_detector


def get_config() -> ConfigDict:
    config = shapes_detector("random", epochs=8.0)
    config.eval_every = 4.0
    return config
