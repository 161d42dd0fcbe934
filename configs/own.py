"""ViT-B from a pre-training of your own, under the recipe of arXiv 2111.11429.

    jaxdet convert my_mae.pth /weights/my_mae.npz
    jaxdet train --config=own --workdir=runs/vitb_my_mae \
        --config.data.root=/data/coco \
        --config.initialisation=my_mae \
        --config.init=/weights/my_mae.npz

`--config=own:l` is ViT-L; s and h are there too. The absolute position embedding is
taken from the weights and the relative biases start at zero, as the paper has it for all but BEiT.
What else the weights ask for (config.model.detector.pixel_mean, config.model.vit.qkv_bias, ...)
the converter's report says, and a run compares.

lr, weight decay and drop path are what the paper found for MAE; yours are found by

    jaxdet sweep --init=my_mae --weights=/weights/my_mae.npz \
        --data=/data/coco --workdir=runs/sweep_my_mae_b
"""

from ml_collections import ConfigDict

from jaxdet.config import benchmark


def get_config(size: str = "b") -> ConfigDict:
    drop_path = 0.3 if size in ("l", "h") else 0.1
    return benchmark(size, "own", lr=8e-5, weight_decay=0.1, drop_path=drop_path, epochs=100.0)
