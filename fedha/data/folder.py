"""The archives in a user's folder: one file or folder a domain; and what could have been meant as one."""

from pathlib import Path

from fedha.errors import FedhaError

INPUTS = ".inputs.npy"  # behind a domain's name: its inputs, mapped, where its archive has labels alone
_MEANT = (".npz", ".npy")


def domains_in(root: Path) -> tuple[list[str], list[str]]:
    """The domains that a folder holds.

    Args:
        root: A folder with ``<domain>.npz`` files, or folders ``<domain>`` with ``inputs.npy`` and ``labels.npy``.

    Returns:
        Their names in order, and for each entry that was passed over and could have been meant, why. Of hidden entries
        nobody is told: programs leave them.

    Raises:
        FedhaError: The folder cannot be read.
    """
    try:
        found = sorted(root.iterdir()) if root.is_dir() else []
    except OSError as error:
        raise FedhaError(f"cannot read the folder {root}: {error.strerror}; correct data.root") from error
    names, notes = [], []
    for path in found:
        reason = _passed_over(path)
        if reason is None:
            name = path.name if path.is_dir() else path.stem
            if name in names:
                raise FedhaError(f"{root} holds both {name}.npz and {name}/inputs.npy; keep one of them")
            names.append(name)
        elif reason:
            notes.append(f"{path.name} is passed over: {reason}")
    return names, notes


def _passed_over(path: Path) -> str | None:
    """Why an entry is no domain, "" where nobody could have meant it; None: it is one."""
    if path.is_dir() and (path / "inputs.npy").is_file() and not path.name.startswith("."):
        return None
    if path.name.startswith(".") or not path.name.lower().endswith(_MEANT):
        return ""
    if path.is_dir():
        return "it is a folder"
    if not path.is_file():
        return "it is no file, or a link to none"
    if path.suffix == ".npz":
        return None
    if path.suffix.lower() == ".npz":
        return f"call it {path.stem}.npz"
    owner = path.name.removesuffix(INPUTS)
    if owner != path.name:
        beside = path.with_name(f"{owner}.npz").is_file()
        return "" if beside else f"there is no {owner}.npz with its labels beside it"
    return "it is a single array; a domain is an archive with inputs and labels"
