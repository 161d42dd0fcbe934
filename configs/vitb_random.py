"""ViT-B from random initialisation, arXiv 2111.11429.

    jaxdet train --config=vitb_random --workdir=runs/vitb_random \
        --config.data.root=/data/coco

Published on COCO val2017: box AP 48.9, mask AP 43.6 after 200 epochs,
the best of 100, 200 and 400 (the mask AP is recalled, not read in the paper).
"""

from ml_collections import ConfigDict

from jaxdet.config import benchmark


def get_config() -> ConfigDict:
    return benchmark("b", "random", lr=1.6e-4, weight_decay=0.2, drop_path=0.1, epochs=200.0)
