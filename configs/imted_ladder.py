"""The steps of imTED's ablation, arXiv 2205.09613.

    jaxdet train --config=imted_ladder:modulated --workdir=runs/imted_ladder_modulated \
        --config.data.root=/data/coco \
        --config.init=/weights/mae_vits_full.npz

| step | box head | its features | box AP |
|---|---|---|---|
| baseline | convolutions | the pyramid | 42.4 |
| pyramid_random | MAE's decoder, random weights | the pyramid | not reported |
| pyramid | MAE's decoder | the pyramid | 42.5 |
| encoder | MAE's decoder | the encoder's last map | 43.2 |
| modulated | MAE's decoder | that map, modulated by the pyramid: imTED | 44.0 |

The authors report the box AP without saying of which backbone and schedule; ViT-S for 12 epochs is
our reading. Nor do they give the details of the head of convolutions: it is ViTDet's, of four
convolutions and a linear layer. Where `pyramid_random` stands between the others is what it is here
for.

Weights: ViT-S of 800 epochs with its decoder, the authors' own, linked from issue 7 of
github.com/LiewFeng/imTED. To convert:

    jaxdet convert --target=imted FILE /weights/mae_vits_full.npz
"""

from ml_collections import ConfigDict

from jaxdet.config import imted, variant

PARTS = {
    "baseline": "baseline",
    "pyramid_random": "pyramid",
    "pyramid": "pyramid",
    "encoder": "encoder",
    "modulated": "modulated",
}


def get_config(step: str = "modulated") -> ConfigDict:
    config = imted(
        "s",
        drop_path=0.1,
        masks=False,
        parts=variant(PARTS, step),
        epochs=12.0,
        milestones=(9.0, 11.0),
    )
    if step == "pyramid_random":
        config.model.decoder.start = "random"
    return config
