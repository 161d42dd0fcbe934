"""ViTDet with Cascade Mask R-CNN, ViT-H from MAE, arXiv 2203.16527.

    jaxdet train --config=cascade_h --workdir=runs/cascade_h \
        --config.data.root=/data/coco \
        --config.init=/weights/mae_vith.npz

Weights: `mae_pretrain_vit_huge.pth` (1600 epochs), linked from
github.com/facebookresearch/mae. To convert:

    jaxdet convert --patch=16 mae_pretrain_vit_huge.pth /weights/mae_vith.npz

Published on COCO val2017: box AP 58.7, mask AP 50.9 after 75 epochs.
The released ViT-H weights have patches of 14 pixels; the recipe resamples them to 16.
"""

from ml_collections import ConfigDict

from jaxdet.config import make_cascade, vitdet


def get_config() -> ConfigDict:
    config = vitdet(
        "h", "mae", lr=1e-4, weight_decay=0.1, drop_path=0.5, epochs=75.0, layer_decay=0.9
    )
    make_cascade(config)
    return config
