"""Which published file each recipe starts from, and how a user comes by it.

Names and addresses are those of the authors' own pages. `sha256` is what is known of the file's
digest: nothing where the authors print none.
"""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

MAE = "https://dl.fbaipublicfiles.com/mae/pretrain/{}, linked from github.com/facebookresearch/mae"
MAE_EPOCHS = "1600 epochs of MAE on ImageNet-1k, normalised pixels"
BEIT = "https://unilm.blob.core.windows.net/beit/{}, linked from github.com/microsoft/unilm (beit)"
BEIT_EPOCHS = (
    "BEiT on ImageNet-22k; the paper's own, 800 epochs on ImageNet-1k, were never published"
)

MAE_DECODER = (
    "https://dl.fbaipublicfiles.com/mae/pretrain/{}, linked from issue 8 of "
    "github.com/facebookresearch/mae"
)
MAE_DECODER_EPOCHS = f"{MAE_EPOCHS}, encoder and decoder"

OFFICIAL: dict[tuple[str, str], dict[str, str]] = {
    ("mae", "b"): {
        "file": "mae_pretrain_vit_base.pth",
        "source": MAE.format("mae_pretrain_vit_base.pth"),
        "training": MAE_EPOCHS,
    },
    ("mae", "l"): {
        "file": "mae_pretrain_vit_large.pth",
        "source": MAE.format("mae_pretrain_vit_large.pth"),
        "training": MAE_EPOCHS,
    },
    ("mae", "h"): {
        "file": "mae_pretrain_vit_huge.pth",
        "source": MAE.format("mae_pretrain_vit_huge.pth"),
        "training": MAE_EPOCHS + ", patches of 14 pixels",
        "options": "--patch=16",
    },
    ("mae with decoder", "s"): {
        "training": "800 epochs of MAE on ImageNet-1k, encoder and decoder; imTED's authors' own, "
        "linked from issue 7 of github.com/LiewFeng/imTED",
        "options": "--target=imted",
    },
    ("mae with decoder", "b"): {
        "file": "mae_pretrain_vit_base_full.pth",
        "source": MAE_DECODER.format("mae_pretrain_vit_base_full.pth"),
        "training": MAE_DECODER_EPOCHS,
        "options": "--target=imted",
    },
    ("mae with decoder", "l"): {
        "file": "mae_pretrain_vit_large_full.pth",
        "source": MAE_DECODER.format("mae_pretrain_vit_large_full.pth"),
        "training": MAE_DECODER_EPOCHS,
        "options": "--target=imted",
    },
    ("beit", "b"): {
        "file": "beit_base_patch16_224_pt22k.pth",
        "source": BEIT.format("beit_base_patch16_224_pt22k.pth"),
        "training": BEIT_EPOCHS,
    },
    ("beit", "l"): {
        "file": "beit_large_patch16_224_pt22k.pth",
        "source": BEIT.format("beit_large_patch16_224_pt22k.pth"),
        "training": BEIT_EPOCHS,
    },
    ("mocov3", "b"): {
        "file": "vit-b-300ep.pth.tar",
        "source": "https://dl.fbaipublicfiles.com/moco-v3/vit-b-300ep/vit-b-300ep.pth.tar, linked "
        "from github.com/facebookresearch/moco-v3 (CONFIG.md)",
        "training": "300 epochs of MoCo v3 on ImageNet-1k",
    },
    ("mocov3", "l"): {
        "training": "300 epochs of MoCo v3 on ImageNet-1k; these weights were never published",
    },
    ("supervised", "b"): {
        "file": "deit_base_patch16_224-b5f2ef4d.pth",
        "source": "https://dl.fbaipublicfiles.com/deit/deit_base_patch16_224-b5f2ef4d.pth, linked "
        "from github.com/facebookresearch/deit (README_deit.md)",
        "training": "300 epochs of DeiT on ImageNet-1k",
        # As torch.hub's check_hash takes it: the name ends in the digest's first digits.
        "sha256": "b5f2ef4d",
    },
    ("supervised", "l"): {
        "training": "200 epochs of the MAE paper's own supervised training on ImageNet-1k; these "
        "weights were never published",
    },
}

FIELDS = ("file", "source", "training", "options", "sha256")
"""The keys of config.weights: the file's name, where its authors publish it, what it was trained
on, options the converter needs for it, and the first digits of its SHA-256."""


def official_weights(initialisation: str, size: str) -> dict[str, Any]:
    """`config.weights` for a recipe; what nothing is known of is None."""
    known = OFFICIAL.get((initialisation, size), {})
    return {name: known.get(name) for name in FIELDS}


def how_to_get(config: ConfigDict) -> str:
    """One sentence on where the weights a config starts from come from and how they are made."""
    weights = config.weights
    if weights.file is None and weights.source is not None:
        return f"make it: {weights.source}"
    # A config of a published pre-training may have been given another name on the command line.
    is_published = any(config.initialisation == name.split()[0] for name, _ in OFFICIAL)
    if not is_published or weights.file is None:
        about = f" ({weights.training})" if is_published and weights.training else ""
        return (
            f"no published file belongs to this config{about}: convert one with "
            "`jaxdet convert FILE OUT.npz` and give --config.init=OUT.npz"
        )
    options = f"{weights.options} " if weights.options else ""
    out = f"{weights.file.partition('.')[0]}.npz"
    return (
        f"download {weights.file} ({weights.training}) from {weights.source}; then run "
        f"`jaxdet convert {options}{weights.file} {out}` and give "
        f"--config.init={out}"
    )
