"""ViTDet with Cascade Mask R-CNN on LVIS v1, ViT-B from MAE, arXiv 2203.16527.

    jaxdet train --config=cascade_lvis_b --workdir=runs/cascade_lvis_b \
        --config.data.root=/data/coco \
        --config.init=/weights/mae_vitb.npz

The folder holds COCO's images, `train2017` and `val2017`, and `lvis_v1_train.json` and
`lvis_v1_val.json`, there or in `annotations`. Weights: `mae_pretrain_vit_base.pth` (1600 epochs),
linked from github.com/facebookresearch/mae. To convert:

    jaxdet convert mae_pretrain_vit_base.pth /weights/mae_vitb.npz

Published on LVIS v1 val: box AP 43.0, mask AP 38.9 after 100 epochs (the released model).
"""

from ml_collections import ConfigDict

from jaxdet.config import make_cascade, make_lvis, vitdet


def get_config() -> ConfigDict:
    config = vitdet(
        "b", "mae", lr=2e-4, weight_decay=0.1, drop_path=0.1, epochs=100.0, layer_decay=0.7
    )
    make_lvis(config)
    make_cascade(config)
    return config
