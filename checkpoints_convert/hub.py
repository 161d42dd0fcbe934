"""Sources on the Hugging Face hub: `hf://owner/name`, and `timm://name` for timm's own files."""

from __future__ import annotations

import hashlib
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

REASONS = {
    "GatedRepoError": "its owner gives access on request: accept the terms on its page, then "
    "`hf auth login` or set HF_TOKEN",
    "RepositoryNotFoundError": "the hub has no such repository, or a private one: `hf auth login`",
    "RevisionNotFoundError": "it has no such revision",
}
"""What huggingface_hub's errors mean, by their class."""

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
        raise UserError(
            f"{address} cannot be downloaded ({_reason(error)}); check the name, the network and "
            "your access to it, or give a downloaded folder"
        ) from error
    weights = sorted(folder.glob("model*.safetensors"))
    if not weights:
        raise UserError(
            f"{address} holds no model.safetensors; download its weights and give the file"
        )
    for file in weights:
        _validate_digest(address, file)
    return folder


def _reason(error: Exception) -> str:
    """What went wrong, from the error or those that it came from."""
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__name__ in REASONS:
            return REASONS[type(cause).__name__]
        cause = cause.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _validate_digest(address: str, file: Path) -> None:
    """Holds a large file to the SHA-256 that the hub's cache names it after.

    huggingface_hub itself compares sizes alone. Where the cache has no symbolic links (Windows),
    the name is lost and nothing is compared.

    Raises:
        UserError: it has another.
    """
    stored = file.resolve()
    if not re.fullmatch(r"[0-9a-f]{64}", stored.name):
        return
    with stored.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != stored.name:
        raise UserError(
            f"{address}: {file.name} has not the SHA-256 that the hub says; delete {stored} and "
            "download it again"
        )
