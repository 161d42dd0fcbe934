"""Pre-trained weights into a freshly initialised detector."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import numpy as np

from jaxdet.errors import UserError
from jaxdet.models.build import Tree
from jaxdet.optim import path_name

POSITION = re.compile(r"pos_embed|rel_pos")
"""Parameters of the backbone that a source may lack: not every pre-training has them."""


def load_weights(path: Path, params: Tree) -> Tree:
    """The parameters with those that a file of converted weights names put in their place.

    Args:
        path: an .npz archive of float arrays, each under its parameter's dotted path, such as
            "backbone.blocks.0.attn.qkv.kernel".
        params: nested dictionaries of arrays; not changed.

    Raises:
        UserError: the file is not such an archive, or holds a name or shape the detector does not
            have, values that are not finite, or not the whole backbone (position information
            apart).
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            weights = {name: np.asarray(archive[name]) for name in archive.files}
    except Exception as error:  # damage surfaces in whichever of zip, zlib and NumPy reads it first
        raise UserError(
            f"{path} is not a file of converted weights ({error}); convert the original again"
        ) from error
    if not weights:
        raise UserError(f"{path} holds no weights; convert the original again")

    def place(key_path, leaf):
        name = path_name(key_path)
        if name not in weights:
            return leaf
        value = weights.pop(name)
        if value.dtype.kind != "f":
            raise UserError(f"{path}: {name} holds {value.dtype}, not floats; convert it again")
        if value.shape != leaf.shape:
            raise UserError(
                f"{path}: {name} is {value.shape} and the config's detector has {leaf.shape}; "
                "use the config of the size the weights were made for"
            )
        if not np.isfinite(value).all():
            raise UserError(f"{path}: {name} has values that are not finite; get the file again")
        return value.astype(leaf.dtype)

    given = len(weights)
    names = {path_name(key_path) for key_path, _ in jax.tree_util.tree_leaves_with_path(params)}
    absent = sorted(
        name
        for name in names - weights.keys()
        if name.startswith("backbone.") and not POSITION.search(name)
    )
    placed = jax.tree_util.tree_map_with_path(place, params)
    if weights:
        raise UserError(
            f"{path} holds {len(weights)} arrays the config's detector has no place for, "
            f"{min(weights)} among them; use the config the weights were made for"
        )
    if absent:
        raise UserError(
            f"{path} lacks {len(absent)} arrays of the backbone, {absent[0]} among them; "
            "convert the original again, or use the config the weights were made for"
        )
    print(f"{path}: {given} of {len(names)} arrays taken, the others start at random")
    return placed
