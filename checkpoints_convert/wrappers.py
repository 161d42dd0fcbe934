"""Where in a checkpoint the ViT is: the name that all of its tensors start with."""

from __future__ import annotations

import re
from collections.abc import Iterable

from jaxdet.errors import UserError

CONTAINERS = re.compile(
    r"(?P<wrapper>(?:.*?[./])??)"
    r"(?:transformer\.resblocks\.|encoder\.layers\.encoder_layer_|encoder\.layers?\."
    r"|encoder\.blocks\.|blocks\.|layers?\.|Transformer/encoderblock_)0[./]"
)
"""The first block of a ViT in any layout, and what stands before it."""

OTHERS = re.compile(
    r"(^|[._/])(decoder|text|text_model|predictor|momentum_encoder|student|ema_student)\w*[._/]"
)
"""Parts of a checkpoint that are like a ViT and not the one to take."""

PREFERRED = ("target_encoder.", "teacher.", "model_ema.")
"""Of several ViTs, the one that their authors evaluate."""


def find_wrapper(names: Iterable[str]) -> str:
    """What the names of the ViT's tensors start with, "" for nothing.

    Raises:
        UserError: there are several ViTs.
    """
    found = {match["wrapper"] for name in names if (match := CONTAINERS.match(name))}
    found = {wrapper for wrapper in found if not OTHERS.search(wrapper)} or found
    # "ffn.layers.0." lies inside a block, as do others: the outermost are meant.
    inner = re.compile(r"(^|[._/])\d+[./]")
    found = {wrapper for wrapper in found if not inner.search(wrapper)} or found
    preferred = [wrapper for wrapper in found if any(name in wrapper for name in PREFERRED)]
    if len(preferred) == 1:
        return preferred[0]
    if len(found) > 1:
        first, second, *_ = sorted(found)
        raise UserError(
            f"the file holds several ViTs, {first or 'at the top'} and {second} among them; save "
            "the tensors of one alone and convert that"
        )
    return next(iter(found), "")
