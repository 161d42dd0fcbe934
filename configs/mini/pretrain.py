"""The miniature benchmark, first step: MAE on rendered shapes.

    jaxdet pretrain --config=mini/pretrain --workdir=runs/mini/pretrain

It learns from 10000 training images of the shapes, of which the detectors see 400 with their
objects, and gives runs/mini/pretrain/weights.npz for configs/mini/mae.py and
configs/mini/imted_base.py.
"""

from ml_collections import ConfigDict

from jaxdet.config import pretraining


def get_config() -> ConfigDict:
    return pretraining()
