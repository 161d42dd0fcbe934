"""Few-shot detection with imTED and ViT-B, second stage: 10 objects of each class.

    jaxdet train --config=imted_fewshot:10 --workdir=runs/imted_10shot \
        --config.few_shot.base_run=runs/imted_base \
        --config.data.root=/data/coco_few/10shot_seed0

`imted_fewshot:30` is for 30 objects of each class, and any other number works too. For the first
stage and the data see configs/imted_base.py. Published on the novel classes, with the objects that
earlier work sampled: box AP 23.0 with 10 objects and 30.4 with 30, after 108 epochs.
"""

from ml_collections import ConfigDict

from jaxdet.config import few_shot


def get_config(shots: str = "10") -> ConfigDict:
    return few_shot("b", shots=int(shots), drop_path=0.2)
