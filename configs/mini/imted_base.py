"""configs/imted_shapes_base.py from the encoder and decoder of the miniature's pre-training.

    jaxdet pretrain --config=mini/pretrain --workdir=runs/mini/pretrain
    jaxdet data shapes /data/shapes
    jaxdet data fewshot --root=/data/shapes --novel=star --shots=10 /data/shapes_few
    jaxdet train --config=mini/imted_base --workdir=runs/mini/imted_base \
        --config.data.root=/data/shapes_few/base
"""

from ml_collections import ConfigDict

from jaxdet.config import few_shot_base, shrink_for_shapes, start_from_pretraining


def get_config() -> ConfigDict:
    config = few_shot_base("s", drop_path=0.0)
    shrink_for_shapes(config)
    config.epochs = config.eval_every = 4.0
    start_from_pretraining(config)
    return config
