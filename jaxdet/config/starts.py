"""Where the weights that a config names may lie: a file, a folder as the hub has it, the hub."""

from __future__ import annotations

from pathlib import Path

from jaxdet.flags import local_path

HUB = "hf://"
"""How the address of a repository on the Hugging Face hub begins."""

PUSHED = ("model.safetensors", "config.json")
"""The files of weights and of what they are, in a folder that `jaxdet push` wrote."""


def is_on_hub(start: str | Path) -> bool:
    """Whether it is an address of the hub, hf://owner/name[@revision]."""
    return isinstance(start, str) and start.startswith(HUB)


def is_pushed(start: str | Path) -> bool:
    """Whether it is an address of the hub, or a folder as `jaxdet push --out` writes it."""
    return is_on_hub(start) or all((Path(start) / name).is_file() for name in PUSHED)


def start_of(text: str) -> str | Path:
    """An address of the hub as it is, anything else as a path on this machine; for a flag."""
    return text if is_on_hub(text) else local_path(text)
