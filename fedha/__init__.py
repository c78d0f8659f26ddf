"""fedha: FEDerated Hessian Alignment. One model across domains that may not share their data."""

from importlib import metadata

try:
    __version__ = metadata.version("fedha")  # pyproject.toml's, as it was installed
except metadata.PackageNotFoundError:
    __version__ = "0+uninstalled"
