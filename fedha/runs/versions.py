"""Which versions computed a result."""

import platform
from functools import cache
from importlib import metadata

from fedha import __version__

PACKAGES = ("torch", "flwr", "ray", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on, without importing any of them.

    Returns:
        ``{"fedha": …, "python": …, "torch": …, …}``; "not installed" where a package is missing (ray is optional).
    """
    found = {name: _version(name) for name in PACKAGES}
    return {"fedha": __version__, "python": platform.python_version(), **found}


@cache  # a process imports what it has found, whatever is installed meanwhile
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
