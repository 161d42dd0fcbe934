"""imTED, Faster R-CNN, arXiv 2205.09613.

    jaxdet train --config=imted_faster:b --workdir=runs/imted_faster_b \
        --config.data.root=/data/coco \
        --config.init=/weights/mae_vitb_full.npz

`imted_faster:s` is ViT-S, `imted_faster:l` ViT-L.

Weights, encoder and decoder, to be converted with `jaxdet convert --target=imted FILE OUT.npz`:

    jaxdet convert --target=imted mae_pretrain_vit_base_full.pth /weights/mae_vitb_full.npz

- ViT-S: 800 epochs, the authors' own, linked from issue 7 of github.com/LiewFeng/imTED.
- ViT-B: `mae_pretrain_vit_base_full.pth` (1600 epochs), linked from issue 8 of
  github.com/facebookresearch/mae.
- ViT-L: `mae_pretrain_vit_large_full.pth` (1600 epochs), linked from there too.

Published on COCO val2017 after 36 epochs: box AP 48.2 with ViT-S, 52.9 with ViT-B, 55.4 with ViT-L.
With ViT-L the pyramid is made from block 11 of 24, as published; for what is meant, the last one,
give --config.model.vit.out_indices=23.
"""

from ml_collections import ConfigDict

from jaxdet.config import imted, variant

DROP_PATH = {"s": 0.1, "b": 0.2, "l": 0.3}


def get_config(size: str = "b") -> ConfigDict:
    return imted(size, drop_path=variant(DROP_PATH, size), masks=False)
