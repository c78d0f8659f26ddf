"""A site's part in a run: by what its folder holds, and where that does not tell by its client id."""

import zipfile
from collections.abc import Sequence

import numpy

from fedha.config import DataConfig
from fedha.data import arrays, heart
from fedha.data.colored import source_names as colored_names
from fedha.data.domain import choose_sources, held_sources, within
from fedha.data.export import FILE
from fedha.data.images.load import domains_in
from fedha.data.tables.sheet import ENDINGS
from fedha.errors import FedhaError, brief

_FILES = {  # of one source
    "heart": (heart.FILE,),
    "arrays": arrays.FILES,
    "table": tuple("{}" + ending for ending in ENDINGS),
}


def source_names(config: DataConfig) -> tuple[str, ...] | None:
    """The sources of a run, in client order; None where only the sites know.

    Raises:
        FedhaError: The config names one that does not exist.
    """
    if config.name.startswith("colored"):
        return tuple(colored_names(config.color_flips))
    if config.name == "heart":
        return tuple(choose_sources(heart.HOSPITALS, config.sources, config.target or "va"))
    return None if config.sources is None else tuple(config.sources)


def no_part(config: DataConfig, client_id: int) -> str | None:
    """Why a site has no part in a run; None where it has one, or where nobody can say before its data are read.

    Args:
        config: Its root is the site's folder.
        client_id: The site's, in client order.
    """
    if (names := source_names(config)) is None:
        return None
    run = f"this run has {len(names)} sources ({', '.join(names)})"
    if (exported := _exported(config)) is not None:
        return None if exported in names else f"it holds the domain {exported!r}, and {run}"
    if _held(config, names):
        return None
    if config.name == "heart" and (others := _held(config, heart.HOSPITALS)):
        return f"it holds {' and '.join(others)}, and {run}"
    if client_id < len(names):
        return None
    return f"it is client {client_id}, and {run}, of which its folder holds none"


def _held(config: DataConfig, sources: Sequence[str]) -> list[str]:
    if (root := config.root) is not None and config.name == "folder":
        known = None if config.manifest is None else domains_in(config, root, own=True)[0]
        return [name for name in within(sources) if ((root / name).is_dir() if known is None else name in known)]
    if root is None or config.name not in _FILES:
        return []
    return held_sources(sources, root, *_FILES[config.name])


def _exported(config: DataConfig) -> str | None:
    """The domain's name in a file of `fedha export`; None where there is no such file."""
    if config.root is None or not (path := config.root / FILE).exists():
        return None
    try:
        with numpy.load(path, allow_pickle=False) as archive:
            return str(archive["name"])
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise FedhaError(
            f"cannot read {path} as a domain ({brief(error)}); make it again with `fedha export`"
        ) from error
