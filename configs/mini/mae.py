"""The miniature benchmark: the tiny detector on 400 images of shapes, from MAE on shapes.

    jaxdet pretrain --config=mini/pretrain --workdir=runs/mini/pretrain
    jaxdet train --config=mini/mae --workdir=runs/mini/mae

Recipe and length are those of configs/mini/random.py.
"""

from ml_collections import ConfigDict

from jaxdet.config import mini


def get_config() -> ConfigDict:
    return mini("mae")
