"""imTED, Faster R-CNN with ViT-S, arXiv 2205.09613.

    python -m jaxdet.main --config=configs/imted_faster_s.py \
        --workdir=runs/imted_faster_s \
        --config.data.root=/data/coco \
        --config.init=/weights/mae_vits_full.npz

Weights: ViT-S of 800 epochs with its decoder, the authors' own, linked from issue 7 of
github.com/LiewFeng/imTED. To convert:

    python -m checkpoints_convert --target=imted FILE /weights/mae_vits_full.npz

Published on COCO val2017: box AP 48.2 after 36 epochs.
"""

from ml_collections import ConfigDict

from jaxdet.config.imted import imted


def get_config() -> ConfigDict:
    return imted("s", drop_path=0.1, masks=False)
