"""The miniature benchmark: the tiny detector on 400 images of shapes, from random weights.

python -m jaxdet.main --config=configs/mini/random.py --workdir=runs/mini/random
"""

from ml_collections import ConfigDict

from jaxdet.config.shapes import mini


def get_config() -> ConfigDict:
    return mini("random")
