"""Where in a checkpoint the ViT is: the name that all of its tensors start with."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from jaxdet.errors import UserError

CONTAINERS = re.compile(
    r"(?P<wrapper>(?:.*?[./])??)"
    r"(?:transformer\.resblocks\.|encoder\.layers\.encoder_layer_|encoder\.layers?\."
    r"|encoder\.blocks\.|blocks\.|layers?\.|Transformer/encoderblock_)0[./]"
)
"""The first block of a ViT in any layout, and what stands before it."""

OTHERS = tuple(
    re.compile(rf"(^|[._/])({names})\w*[._/]")
    for names in ("decoder|text|text_model|predictor", "momentum_encoder|student|ema_student")
)
"""Parts of a checkpoint that are like a ViT and not the one to take, if there is another."""

PATCHES = re.compile(r"(patch_\w+|embeddings?|conv1|conv_proj)[./]")
"""What a patch projection is called, behind the wrapper."""

PREFERRED = ("target_encoder.", "teacher.", "model_ema.")
"""Of several ViTs, the one that their authors evaluate."""


def find_wrapper(names: Collection[str]) -> str:
    """What the names of the ViT's tensors start with, "" for nothing.

    Raises:
        UserError: there are several ViTs.
    """
    found = {match["wrapper"] for name in names if (match := CONTAINERS.match(name))}
    for others in OTHERS:
        found = {wrapper for wrapper in found if not others.search(wrapper)} or found
    # "ffn.layers.0." lies inside a block, as do others: the outermost are meant.
    inner = re.compile(r"(^|[._/])\d+[./]")
    found = {wrapper for wrapper in found if not inner.search(wrapper)} or found
    preferred = [wrapper for wrapper in found if any(name in wrapper for name in PREFERRED)]
    if len(preferred) == 1:
        return _with_encoder(preferred[0], names)
    if len(found) > 1:
        first, second, *_ = sorted(found)
        raise UserError(
            f"the file holds several ViTs, {first or 'at the top'} and {second} among them; save "
            "the tensors of one alone and convert that"
        )
    return _with_encoder(next(iter(found), ""), names)


def _with_encoder(wrapper: str, names: Collection[str]) -> str:
    """A wrapper with the "encoder." behind it, if the patches are in there and not the blocks
    alone, as in transformers' ViTs.
    """
    longer = f"{wrapper}encoder."
    inside = any(name.startswith(longer) and PATCHES.match(name, len(longer)) for name in names)
    return longer if inside else wrapper


def holds_vit(names: Iterable[str]) -> bool:
    """Whether there is a first block among some names."""
    return any(CONTAINERS.match(name) for name in names)
