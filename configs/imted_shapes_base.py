"""Few-shot detection on the built-in shapes, first stage: discs, boxes and triangles.

    python -m jaxdet.data.shapes /data/shapes
    python -m jaxdet.data.fewshot --root=/data/shapes --novel=star --shots=10 /data/shapes_few
    python -m jaxdet.main --config=configs/imted_shapes_base.py --workdir=runs/imted_shapes_base \
        --config.data.root=/data/shapes_few/base
"""

from ml_collections import ConfigDict

from jaxdet.config.imted import few_shot_base, shrink_for_shapes


def get_config() -> ConfigDict:
    config = few_shot_base("s", drop_path=0.0)
    shrink_for_shapes(config)
    config.epochs = config.eval_every = 8.0
    return config
