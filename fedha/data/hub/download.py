"""A data set of Hugging Face's Hub, downloaded once and saved where `data.name: hub` reads it."""

import secrets
import shutil
from pathlib import Path

from fedha.errors import FedhaError, UnwrittenError, brief


def download(name: str, root: Path, revision: str | None, subset: str | None) -> str:
    """Save a data set into a folder, at once: it is there whole, or not at all. No code of the data set's is run.

    Args:
        name: OWNER/NAME, or what else ``datasets`` reads, such as a folder of Parquet files.
        root: A folder that is empty, or not there.
        revision: A commit of it; None: the newest.
        subset: Which of several that it has.

    Returns:
        What was saved, in a few words.

    Raises:
        FedhaError: ``datasets`` is not installed, the folder has something in it, or it cannot be downloaded.
    """
    try:
        import datasets
    except ImportError as error:
        raise FedhaError(
            f"{name} is a data set of the Hub, which needs the package datasets; install fedha[hub]"
        ) from error
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise FedhaError(f"{root} has something in it; choose an empty --root for {name}")
    try:
        found = datasets.load_dataset(name, subset, revision=revision)
    except Exception as error:  # of the network, of the data, of the Hub
        raise FedhaError(
            f"cannot get {name}: {type(error).__name__}: {brief(error)}; check its name and the network"
        ) from error
    beside = root.with_name(f".{root.name}.{secrets.token_hex(4)}")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        found.save_to_disk(str(beside))
        if root.exists():
            root.rmdir()
        beside.replace(root)
    except OSError as error:
        raise UnwrittenError(f"cannot write {root}: {error.strerror}; choose a folder with space") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    parts = found.items() if hasattr(found, "items") else [("", found)]
    return ", ".join(f"{part} {len(rows):,} rows".strip() for part, rows in parts)
