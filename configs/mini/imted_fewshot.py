"""configs/imted_shapes_fewshot.py after configs/mini/imted_base.py.

    jaxdet train --config=mini/imted_fewshot \
        --workdir=runs/mini/imted_fewshot \
        --config.few_shot.base_run=runs/mini/imted_base \
        --config.data.root=/data/shapes_few/10shot_seed0
"""

from ml_collections import ConfigDict

from jaxdet.config import few_shot, shrink_for_shapes, start_from_pretraining


def get_config() -> ConfigDict:
    config = few_shot("s", shots=10, drop_path=0.0)
    shrink_for_shapes(config)
    config.epochs = config.checkpoint_every = 60.0
    config.eval_every = 15.0
    config.optim.update(lr=1e-3, warmup_epochs=5.0)
    start_from_pretraining(config)
    config.init = None  # the base run gives all weights
    return config
