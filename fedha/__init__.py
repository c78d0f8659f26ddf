"""fedha: FEDerated Hessian Alignment. One model across domains that may not share their data."""

import sys
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedha.loading import load
    from fedha.metrics.metric import Metric
    from fedha.registry import add_statistic
    from fedha.simulation import simulate
    from fedha.statistic import Mean, Statistic

__all__ = ["Mean", "Metric", "Statistic", "__version__", "add_statistic", "load", "simulate"]

try:
    __version__ = metadata.version("fedha")  # pyproject.toml's, as it was installed
except metadata.PackageNotFoundError:
    __version__ = "0+uninstalled"

if sys.platform == "win32":  # before anything that only fails there
    _REFUSAL = "fedha runs on Linux and macOS; on Windows take WSL 2"
    if sys.argv[0].removesuffix(".exe").endswith(("fedha", "-m")):
        sys.exit(_REFUSAL)  # the command: a sentence, no traceback
    raise ImportError(_REFUSAL)

_ENTRIES = {  # imported when asked for: torch takes a second
    "Mean": "fedha.statistic",
    "Metric": "fedha.metrics.metric",
    "Statistic": "fedha.statistic",
    "add_statistic": "fedha.registry",
    "load": "fedha.loading",
    "simulate": "fedha.simulation",
}


def __getattr__(name: str) -> Any:
    if name not in _ENTRIES:
        raise AttributeError(f"module 'fedha' has no attribute {name!r}")
    return getattr(import_module(_ENTRIES[name]), name)
