"""Few-shot detection on the built-in shapes, first stage: discs, boxes and triangles.

    jaxdet data shapes /data/shapes
    jaxdet data fewshot --root=/data/shapes --novel=star --shots=10 /data/shapes_few
    jaxdet train --config=imted_shapes_base --workdir=runs/imted_shapes_base \
        --config.data.root=/data/shapes_few/base
"""

from ml_collections import ConfigDict

from jaxdet.config import few_shot_base, shrink_for_shapes


def get_config() -> ConfigDict:
    config = few_shot_base("s", drop_path=0.0)
    shrink_for_shapes(config)
    config.epochs = config.eval_every = 8.0
    return config
