"""configs/imted_shapes_base.py from the encoder and decoder of the miniature's pre-training.

    python -m jaxdet.pretrain --config=configs/mini/pretrain.py --workdir=runs/mini/pretrain
    python -m jaxdet.data.shapes /data/shapes
    python -m jaxdet.data.fewshot --root=/data/shapes --novel=star --shots=10 /data/shapes_few
    python -m jaxdet.main --config=configs/mini/imted_base.py --workdir=runs/mini/imted_base \
        --config.data.root=/data/shapes_few/base
"""

from ml_collections import ConfigDict

from jaxdet.config.imted import few_shot_base, shrink_for_shapes
from jaxdet.config.shapes import start_from_pretraining


def get_config() -> ConfigDict:
    config = few_shot_base("s", drop_path=0.0)
    shrink_for_shapes(config)
    config.epochs = config.eval_every = 4.0
    start_from_pretraining(config)
    return config
