"""imTED's ablation: a box head of convolutions instead of MAE's decoder.

    python -m jaxdet.main --config=configs/imted_ladder_baseline.py \
        --workdir=runs/imted_ladder_baseline \
        --config.data.root=/data/coco \
        --config.init=/weights/mae_vits_full.npz

Weights: ViT-S of 800 epochs with its decoder, the authors' own, linked from issue 7 of
github.com/LiewFeng/imTED. To convert:

    python -m checkpoints_convert --target=imted FILE /weights/mae_vits_full.npz

The authors report a box AP of 42.4 for this step of their ablation, without saying of which
backbone and schedule; ViT-S for 12 epochs is our reading. Nor do they give the
head's details: it is ViTDet's, of four convolutions and a linear layer.
"""

from ml_collections import ConfigDict

from jaxdet.config.imted import imted


def get_config() -> ConfigDict:
    return imted(
        "s", drop_path=0.1, masks=False, parts="baseline", epochs=12.0, milestones=(9.0, 11.0)
    )
