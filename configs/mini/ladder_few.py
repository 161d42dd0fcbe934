"""Few-shot detection on shapes of 128 pixels, second stage, after configs/mini/ladder.py.

    jaxdet train --config=mini/ladder_few:modulated --workdir=runs/mini/ladder_10shot \
        --config.few_shot.base_run=runs/mini/ladder_modulated \
        --config.data.root=/data/shapes_fine_few/10shot_seed0

The step is that of the base run.
"""

from ml_collections import ConfigDict

from jaxdet.config import LADDER, ladder_few, variant


def get_config(step: str = "modulated") -> ConfigDict:
    variant(LADDER, step)
    return ladder_few(step)
