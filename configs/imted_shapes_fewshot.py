"""Few-shot detection on the built-in shapes, second stage: 10 of each shape, stars among them.

    jaxdet train --config=imted_shapes_fewshot \
        --workdir=runs/imted_shapes_fewshot \
        --config.few_shot.base_run=runs/imted_shapes_base \
        --config.data.root=/data/shapes_few/10shot_seed0

For the first stage and the data see configs/imted_shapes_base.py.
"""

from ml_collections import ConfigDict

from jaxdet.config import few_shot, shrink_for_shapes


def get_config() -> ConfigDict:
    config = few_shot("s", shots=10, drop_path=0.0)
    shrink_for_shapes(config)
    config.epochs = config.eval_every = config.checkpoint_every = 60.0
    config.optim.update(lr=1e-3, warmup_epochs=5.0)
    return config
