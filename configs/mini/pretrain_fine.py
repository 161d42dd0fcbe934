"""The miniature of imTED, first step: MAE on rendered shapes of 128 pixels.

    jaxdet pretrain --config=mini/pretrain_fine --workdir=runs/mini/pretrain_fine

It learns from 10000 training images of the shapes, of which the detectors of
configs/mini/ladder.py see 2000 with their objects.
"""

from ml_collections import ConfigDict

from jaxdet.config import FINE_SIZE, pretraining


def get_config() -> ConfigDict:
    config = pretraining(FINE_SIZE)
    config.epochs = 32.0
    return config
