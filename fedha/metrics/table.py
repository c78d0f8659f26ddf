"""Which metrics there are: a row each, those of installed packages, and somebody's own function.

A package adds one by an entry point of the group `fedha.metrics`, a config names ``package.module:function``, and a
program hands a function over. A message adds none: it may name what is installed, and of somebody's own what this
process was told of.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from importlib import import_module
from typing import Any

from fedha import plugins
from fedha.errors import FedhaError
from fedha.metrics.metric import Metric
from fedha.named import is_own, look_up, name_of
from fedha.schema import nearest

OBJECTS = "objects"  # before the name of what a program handed over
_PLACE = "fedha.metrics.formulas"
# name: whether less is better, and whether it takes many counts at once
_ROWS: Mapping[str, tuple[bool, bool]] = {
    "accuracy": (False, False),
    "balanced_accuracy": (False, True),
    "worst_class": (False, True),
    "macro_f1": (False, True),
    "auroc": (False, False),
    "auprc": (False, False),
    "expected_calibration_error": (True, True),
    "log_loss": (True, False),
}

_allowed: set[str] = set()


def known() -> tuple[str, ...]:
    """The names that need no module."""
    return (*_ROWS, *(name for name in plugins.installed(plugins.METRICS) if name not in _ROWS))


def check_name(name: str) -> None:
    """Refuse a metric that there is not, without importing anything.

    Raises:
        ValueError: Names the nearest.
    """
    if not is_own(name) and name not in known():
        raise ValueError(f"there is no metric {name!r}{nearest(name, known())}")


def is_smaller(name: str) -> bool:
    """Whether less of a metric is better."""
    return _ROWS[name][0] if name in _ROWS else metric(name).smaller


@cache
def metric(name: str) -> Metric:
    """A metric by its name.

    Raises:
        FedhaError: There is none, or what it names is no function.
    """
    if name in _ROWS:
        smaller, stacked = _ROWS[name]
        return Metric(name, getattr(import_module(_PLACE), name), smaller, stacked, name != "log_loss")
    if name.startswith(f"{OBJECTS}:"):
        from fedha.objects import get_object  # which knows tensors: torch is slow to import

        return _made(name, get_object("metric", name))
    if is_own(name):
        return _made(name, look_up("evaluation.metrics", name))
    if name in plugins.installed(plugins.METRICS):
        return _made(name, plugins.load(plugins.METRICS, name))
    raise FedhaError(f"there is no metric {name!r}{nearest(name, known())}")


def _made(name: str, found: Any) -> Metric:
    if isinstance(found, Metric):
        return replace(found, name=name)
    if not callable(found):
        raise FedhaError(f"metric {name!r} is a {type(found).__name__}; name a function, or a fedha.Metric")
    return Metric(name, found)


def handed_over(given: "str | Metric | Callable[..., Any]") -> str:
    """The name of a metric that a program gives: its own, an import name, or one that this process alone knows."""
    from fedha.objects import code_digest, put_object

    if isinstance(given, str):
        return given
    function = given.function if isinstance(given, Metric) else given
    if not callable(function):
        raise FedhaError(f"evaluation.metrics has {given!r}; give a name, a function, or a fedha.Metric")
    if not isinstance(given, Metric) and (found := name_of(function)) is not None:
        return found
    called = given.name if isinstance(given, Metric) else getattr(function, "__name__", type(function).__name__)
    digest = code_digest((function, getattr(given, "smaller", False)))
    name = f"{OBJECTS}:{digest[:12]}:{called.replace('/', '_')}"
    put_object(name, given)
    return name


def allow(name: str) -> None:
    """Make known to this process what its own config or program says of a metric, so that messages may name it too."""
    _allowed.add(name)


def check_allowed(name: str) -> None:
    """Refuse a metric that a message names, where nobody in this process has named it: it would be imported and called.

    Raises:
        FedhaError: It is one.
    """
    if is_own(name) and name not in _allowed:
        raise FedhaError(
            f"the server asks for the metric {name!r}, which this client was not started with; name it in the client's "
            "config, under evaluation.metrics"
        )
