"""The steps of imTED's ablation on shapes of 128 pixels, whose map has 16 x 16 patches.

    jaxdet pretrain --config=mini/pretrain_fine --workdir=runs/mini/pretrain_fine
    jaxdet data shapes --image-size=128 /data/shapes_fine
    jaxdet data fewshot --root=/data/shapes_fine --novel=star --shots=10 /data/shapes_fine_few
    jaxdet train --config=mini/ladder:modulated --workdir=runs/mini/ladder_modulated \
        --config.data.root=/data/shapes_fine_few/base

| step | box head | its features |
|---|---|---|
| convs | convolutions | the pyramid |
| pyramid_random | MAE's decoder, random weights | the pyramid |
| pyramid | MAE's decoder | the pyramid |
| encoder | MAE's decoder | the encoder's last map |
| modulated_random | MAE's decoder, random weights | that map, modulated by the pyramid |
| modulated | MAE's decoder | that map, modulated by the pyramid: imTED |
| scratch | as modulated | as modulated, but nothing is pre-trained |

benchmarks/miniature.py trains them all.
"""

from ml_collections import ConfigDict

from jaxdet.config import LADDER, ladder_base, variant


def get_config(step: str = "modulated") -> ConfigDict:
    variant(LADDER, step)
    return ladder_base(step)
