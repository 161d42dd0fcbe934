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
    "LocalTokenNotFoundError": "nobody is logged in: `hf auth login` or set HF_TOKEN",
}
"""What huggingface_hub's errors mean, by their class."""

STATUSES = {
    401: "nobody is logged in, or with a token that is not valid: `hf auth login` or set HF_TOKEN",
    403: "your token may not {act}: make one that may",
}
"""What the hub's answers mean where the error says no more; `act` is to "read" or "write"."""

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
            f"{address} cannot be downloaded ({_reason(error, 'read')}); check the name, the "
            "network and your access to it, or give a downloaded folder"
        ) from error
    weights = sorted(folder.glob("model*.safetensors"))
    if not weights:
        raise UserError(
            f"{address} holds no model.safetensors; download its weights and give the file"
        )
    for file in weights:
        _validate_digest(address, file)
    return folder


def upload(folder: Path, name: str, *, private: bool, update: bool) -> str:
    """Puts a folder's files into a repository of the hub, which is made.

    Args:
        name: owner/name.
        private: whether others cannot see it, where it is made.
        update: whether it may be there already; its files of these names are replaced.

    Returns:
        The address of its page.

    Raises:
        UserError: it is there already, huggingface_hub is absent, or the network, the hub or the
            rights do not allow it.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise UserError(
            f"{name} is uploaded by huggingface_hub; install it with "
            "pip install -c constraints.txt -e '.[hub]', or give --out=FOLDER and upload that"
        ) from error
    api = HfApi()
    try:
        if not update and api.repo_exists(name):
            raise UserError(
                f"the hub has {name} already; give --update to replace its files, or another name"
            )
        page = api.create_repo(name, private=private, exist_ok=update)
        api.upload_folder(
            repo_id=name, folder_path=folder, commit_message="A detector, by jaxdet push"
        )
    except UserError:
        raise
    except Exception as error:  # of the network, the hub, access rights or the disk
        raise UserError(
            f"{name} cannot be uploaded ({_reason(error, 'write')}); check the name and the "
            "network, or give --out=FOLDER and upload that"
        ) from error
    return str(page)


def _reason(error: Exception, act: str) -> str:
    """What went wrong, from the error or those that it came from."""
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__name__ in REASONS:
            return REASONS[type(cause).__name__]
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if status in STATUSES:
            return STATUSES[status].format(act=act)
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
