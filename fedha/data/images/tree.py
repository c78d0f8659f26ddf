"""What a folder of images holds: domains, their classes, and the files of each."""

import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedha.errors import FedhaError, listed

LAYOUT = "root/domain/class/image"
ENDINGS = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".webp",
    ".bmp",
    ".gif",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
    ".tif",
    ".tiff",
)
_LITTER = frozenset(
    {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin"}
)  # systems leave it, as .DS_Store
_FEW = 3  # files that are named


@dataclass(frozen=True)
class Folder:
    """One domain's.

    Attributes:
        name: The domain's.
        path: What its files are relative to, absolute.
        classes: The names of its classes; of a tree, of its class folders.
        files: Its images, relative to `path`, in order.
        labels: The class of each.
        notes: What was passed over, a sentence each.
        held_out: Whether each is held out, where a manifest says so; None: it is drawn.
        groups: The group of each, where a manifest has them.
        columns: What else a manifest has of each, by column.
    """

    name: str
    path: Path
    classes: tuple[str, ...]
    files: tuple[str, ...]
    labels: tuple[str, ...]
    notes: tuple[str, ...]
    held_out: tuple[bool, ...] | None = None
    groups: tuple[str, ...] | None = None
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def read_tree(root: Path) -> tuple[dict[str, Folder], list[str]]:
    """The domains of a folder, by name, in order.

    Args:
        root: Holds a folder for every domain; links are followed.

    Returns:
        The domains, and for each folder that is none, why.

    Raises:
        FedhaError: A folder cannot be read, links lead back to one above it, or names differ by case alone.
    """
    if not root.is_dir():
        raise FedhaError(f"{shown(root)} is no folder; correct data.root, which holds domain/class/image")
    found, passed = {}, []
    for entry in _entries(root):
        if _is_folder(entry):
            one = _domain(root.absolute() / entry.name, _place(root))
            if one.classes:
                found[entry.name] = one
            else:
                why = "it holds images but no class folder" if _has_image(one.path) else "it holds no class folder"
                passed.append(f"{shown(entry.name)} is passed over: {why}")
    check_names({f"domain {shown(name)!r}": name for name in found})
    check_names({f"{shown(name)!r} ({one.name})": name for one in found.values() for name in one.classes})
    return found, passed


def read_domain(root: Path, name: str) -> Folder:
    """One domain's folder alone; errors as in `read_tree`."""
    one = _domain(root.absolute() / name, _place(root))
    if not one.classes:
        raise FedhaError(f"{shown(one.path)} holds no class folder; the layout is {LAYOUT}")
    check_names({f"{shown(label)!r} ({name})": label for label in one.classes})
    return one


def images_below(folder: Path) -> list[str]:
    """The images of a folder and of the folders in it, by their names in it, in order; errors as in `read_tree`."""
    if not folder.is_dir():
        raise FedhaError(f"{shown(folder)} is no folder; name one with images")
    return [name for name, is_image in _walk(folder, ()) if is_image]


def shown(path: Path | str) -> str:
    """A path as it can be printed, whatever bytes it has."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")


def check_names(told: Mapping[str, str], kind: str = "folders") -> None:
    """Refuse names that differ by case, by how an accent is written, or by a space at an end, alone.

    Args:
        told: Each name by what people would call it.
        kind: What they are.

    Raises:
        FedhaError: Names two; or one is no text.
    """
    seen: dict[str, tuple[str, str]] = {}
    for called, name in told.items():
        if shown(name) != name:
            raise FedhaError(f"the name of {called} is no UTF-8 text; rename it")
        key = unicodedata.normalize("NFC", name).casefold().strip()
        other, before = seen.setdefault(key, (name, called))
        if other != name:
            raise FedhaError(
                f"{kind} {before} and {called} differ by case, by how an accent is written, or by a space at an end, "
                "alone; give them one name"
            )


def _domain(path: Path, above: tuple[int, int]) -> Folder:
    classes: list[str] = []
    files: list[str] = []
    others: list[str] = []
    loose: list[str] = []
    for entry in _entries(path):
        if not _is_folder(entry):
            (loose if _is_image(entry) else others).append(entry.name)
            continue
        classes.append(entry.name)
        for name, is_image in _walk(path / entry.name, (above, _place(path))):
            (files if is_image else others).append(f"{entry.name}/{name}")
    labels = tuple(name.partition("/")[0] for name in files)
    return Folder(path.name, path, tuple(classes), tuple(files), labels, tuple(_notes(path.name, others, loose)))


def _notes(domain: str, others: list[str], loose: list[str]) -> Iterator[str]:
    if others:
        named = listed(map(shown, others), _FEW)
        yield f"{_files(len(others), domain)} no image by name and passed over: {named}"
    if loose:
        yield f"{_files(len(loose), domain)} outside any class folder and passed over: {listed(loose, _FEW)}"


def _files(count: int, domain: str) -> str:
    return f"1 file of {domain} is" if count == 1 else f"{count:,} files of {domain} are"


def _walk(folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, bool]]:
    """The files below a folder, relative to it, and whether each is an image by its name."""
    here = _place(folder)
    if here in above:
        raise FedhaError(f"{shown(folder)} is a link that leads back to a folder above it; remove it")
    for entry in _entries(folder):
        if _is_folder(entry):
            below = _walk(folder / entry.name, (*above, here))
            yield from ((f"{entry.name}/{name}", is_image) for name, is_image in below)
        else:
            yield entry.name, _is_image(entry)


def _entries(folder: Path) -> Iterable[os.DirEntry[str]]:
    """What a folder holds, in order, but for what is hidden and what systems leave."""
    try:
        with os.scandir(folder) as found:
            kept = [one for one in found if not one.name.startswith(".") and one.name.casefold() not in _LITTER]
    except OSError as error:
        raise _unreadable(folder, error) from error
    return sorted(kept, key=lambda one: one.name)


def _place(folder: Path) -> tuple[int, int]:
    try:
        found = folder.stat()
    except OSError as error:
        raise _unreadable(folder, error) from error
    return found.st_dev, found.st_ino


def _unreadable(folder: Path, error: OSError) -> FedhaError:
    return FedhaError(
        f"cannot read the folder {shown(folder)}: {error.strerror}; give yourself the right, or remove it"
    )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself: a file that cannot be read
        return False


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Whether it is one by its name: of a dead link it is found out later that it is broken, a pipe is none."""
    if os.path.splitext(entry.name)[1].lower() not in ENDINGS:
        return False
    try:  # the folder itself mostly says that it is a file, so that none is asked
        return entry.is_file() or stat.S_ISREG(entry.stat().st_mode)
    except OSError:
        return True


def _has_image(folder: Path) -> bool:
    return any(_is_image(one) for one in _entries(folder))
