"""The miniature benchmark: the tiny detector on 400 images of shapes, from random weights.

jaxdet train --config=mini/random --workdir=runs/mini/random
"""

from ml_collections import ConfigDict

from jaxdet.config import mini


def get_config() -> ConfigDict:
    return mini("random")
