"""The miniature benchmark: the tiny detector on 400 images of shapes, from MAE on shapes.

    python -m jaxdet.pretrain --config=configs/mini/pretrain.py --workdir=runs/mini/pretrain
    python -m jaxdet.main --config=configs/mini/mae.py --workdir=runs/mini/mae

Recipe and length are those of configs/mini/random.py.
"""

from ml_collections import ConfigDict

from jaxdet.config.shapes import mini


def get_config() -> ConfigDict:
    return mini("mae")
