"""Sources on the Hugging Face hub: `hf://owner/name`, and `timm://name` for timm's own files."""

from __future__ import annotations

import re
from pathlib import Path

from jaxdet.errors import UserError

FILES = (
    "config.json",
    "preprocessor_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-?????-of-?????.safetensors",
)
"""What is downloaded: no pickle, which safetensors make unnecessary."""

PART = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}"


def is_address(source: str) -> bool:
    """Whether a source is one of the hub; `pathlib` would make one slash of its two."""
    return source.startswith(("hf://", "timm://"))


def repository_of(address: str) -> tuple[str, str | None]:
    """Owner/name, and the revision of `hf://owner/name@revision` if there is one.

    Raises:
        UserError: it is no such address.
    """
    scheme, _, rest = address.partition("://")
    name, _, revision = rest.partition("@")
    name = f"timm/{name}" if scheme == "timm" else name
    if not re.fullmatch(f"{PART}/{PART}", name) or not re.fullmatch(f"({PART})?", revision):
        raise UserError(
            f"{address[:200]} must be hf://owner/name or timm://name, with @revision for one of "
            "several"
        )
    return name, revision or None


def download(address: str) -> Path:
    """The folder of a repository's weights and `config.json`, in the hub's cache.

    Raises:
        UserError: the package huggingface_hub is absent, the network or the repository is out of
            reach, or it has no safetensors file.
    """
    name, revision = repository_of(address)
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UserError(
            f"{address} is downloaded by huggingface_hub; install it with "
            "pip install -c constraints.txt -e '.[convert,hub]', or give a downloaded folder"
        ) from error
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=[*FILES]))
    except Exception as error:  # of the network, the hub, access rights or the disk
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"{address} cannot be downloaded ({reason}); check the name, the network and your "
            "access to it, or give a downloaded folder"
        ) from error
    if not any(folder.glob("model*.safetensors")):
        raise UserError(
            f"{address} holds no model.safetensors; download its weights and give the file"
        )
    return folder
