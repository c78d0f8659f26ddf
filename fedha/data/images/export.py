"""A domain's images for its site: the files as they are, in a folder a class."""

import secrets
import shutil
from pathlib import Path

from fedha.data.domain import Domain
from fedha.data.examples import Chosen
from fedha.data.images.source import Images
from fedha.errors import FedhaError, UnwrittenError


def images_of(domain: Domain) -> list[Path] | None:
    """The names of a domain's usable files, relative to its folder, in order; None where it is not of image files."""
    names: set[Path] = set()
    for part in (domain.train, domain.held_out):
        kept = part.inputs
        source, rows = (kept.source, kept.rows.tolist()) if isinstance(kept, Chosen) else (kept, range(len(part)))
        if not isinstance(source, Images):
            return None
        names |= {Path(source.files.names[row]) for row in rows}
    return sorted(names)


def copy_images(domain: Domain, root: Path, folder: Path) -> int:
    """Copy a domain's images to ``folder/<domain>/class/image``, at once: all of them, or nothing is there.

    Args:
        domain: Of image files.
        root: Its own folder, which holds its classes'.
        folder: The site's, made if it is not there.

    Returns:
        How many bytes were copied.

    Raises:
        FedhaError: The folder cannot be written, or an image has gone.
    """
    place = folder / domain.name
    beside = folder / f".{domain.name}.{secrets.token_hex(4)}"
    copied = 0
    try:
        for name in images_of(domain) or []:
            (beside / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, beside / name)
            copied += (beside / name).stat().st_size
        beside.replace(place)
    except FileNotFoundError as error:
        raise FedhaError(f"the image {error.filename} has gone; export again") from error
    except OSError as error:
        raise UnwrittenError(f"cannot write {place}: {error.strerror}; choose a folder with space") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return copied


def export_images(domains: tuple[Domain, ...], root: Path, folder: Path) -> dict[Path, int]:
    """Copy every source into a folder of its own, ``folder/<domain>/<domain>/class/image``; nothing is overwritten.

    Args:
        domains: The sources, in client order.
        root: Holds each domain's folder.
        folder: Made if it is not there.

    Returns:
        The sites' folders, and the bytes in each.

    Raises:
        FedhaError: One is there already, or cannot be written; then none is there.
    """
    places = [folder / one.name for one in domains]
    if there := [one for one in places if one.exists()]:
        raise FedhaError(f"{there[0]} is there already and nothing is overwritten; choose another folder")
    made: dict[Path, int] = {}
    before = {one for one in (folder, *folder.parents) if one.exists()}
    try:
        for place, one in zip(places, domains, strict=True):
            made[place] = copy_images(one, root / one.name, place)
    except BaseException:
        for place in places:
            shutil.rmtree(place, ignore_errors=True)
        for above in (folder, *folder.parents):
            if above not in before and above.is_dir() and not any(above.iterdir()):
                above.rmdir()
        raise
    return made
