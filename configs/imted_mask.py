"""imTED, Mask R-CNN, arXiv 2205.09613.

    jaxdet train --config=imted_mask:b --workdir=runs/imted_mask_b \
        --config.data.root=/data/coco \
        --config.init=/weights/mae_vitb_full.npz

`imted_mask:s` is ViT-S, `imted_mask:l` ViT-L, `imted_mask:l_100ep` ViT-L over 100 epochs.

Weights, encoder and decoder, to be converted with `jaxdet convert --target=imted FILE OUT.npz`:

    jaxdet convert --target=imted mae_pretrain_vit_base_full.pth /weights/mae_vitb_full.npz

- ViT-S: 800 epochs, the authors' own, linked from issue 7 of github.com/LiewFeng/imTED.
- ViT-B: `mae_pretrain_vit_base_full.pth` (1600 epochs), linked from issue 8 of
  github.com/facebookresearch/mae.
- ViT-L: `mae_pretrain_vit_large_full.pth` (1600 epochs), linked from there too.

Published on COCO val2017 after 36 epochs: box AP 48.7, mask AP 42.7 with ViT-S, 53.3 and 46.4 with
ViT-B, 55.5 and 48.1 with ViT-L. The official code has the config of 100 epochs; no number of it is
published. With ViT-L the pyramid is made from block 11 of 24, as published; for what is meant, the
last one, give --config.model.vit.out_indices=23.
"""

from ml_collections import ConfigDict

from jaxdet.config import imted, variant

VARIANTS = {
    "s": {"size": "s", "drop_path": 0.1},
    "b": {"size": "b", "drop_path": 0.2},
    "l": {"size": "l", "drop_path": 0.3},
    "l_100ep": {
        "size": "l",
        "drop_path": 0.4,
        "epochs": 100.0,
        "milestones": (89.0, 96.0),
        "weight_decay": 0.1,
        "layer_decay": 0.8,
        "batch_size": 8,
    },
}


def get_config(name: str = "b") -> ConfigDict:
    return imted(**variant(VARIANTS, name), masks=True)
