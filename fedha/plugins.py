"""What installed packages add, by entry points: nothing of it is imported before its name is asked for.

What fedha itself adds in the same way stands in `BUILT_IN`: a function whose signature declares its options.
"""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from fedha import permitted
from fedha.errors import FedhaError

_KINDS = ("data", "loggers", "metrics", "models", "partitions", "recipes", "rules", "statistics", "transforms")
GROUPS = tuple(f"fedha.{kind}" for kind in _KINDS)
DATA, LOGGERS, METRICS, MODELS, PARTITIONS, RECIPES, RULES, STATISTICS, TRANSFORMS = GROUPS

BUILT_IN: Mapping[str, Mapping[str, str]] = {
    DATA: {
        "digits_background": "fedha.data.background:digits_background",
        "digits_labels": "fedha.data.uneven:digits_labels",
        "hub": "fedha.data.hub:hub",
        "rotated_digits": "fedha.data.rotated:rotated_digits",
        "rotated_mnist": "fedha.data.rotated:rotated_mnist",
        "table": "fedha.data.tables:table",
    },
    LOGGERS: {
        "mlflow": "fedha.loggers.mlflow:MLflow",
        "tensorboard": "fedha.loggers.tensorboard:TensorBoard",
        "wandb": "fedha.loggers.wandb:WeightsAndBiases",
    },
    MODELS: {
        "domainbed_mnist_cnn": "fedha.models.domainbed:domainbed_mnist_cnn",
        "domainbed_resnet18": "fedha.models.domainbed:domainbed_resnet18",
        "domainbed_resnet50": "fedha.models.domainbed:domainbed_resnet50",
        "timm": "fedha.models.backbones:timm_network",
        "torchvision": "fedha.models.backbones:torchvision_network",
    },
    PARTITIONS: {
        "column": "fedha.data.partitions:by_column",
        "dirichlet": "fedha.data.partitions:dirichlet",
        "lambda": "fedha.data.partitions:mixed_domains",
    },
    TRANSFORMS: {"domainbed": "fedha.data.images.domainbed:augmentation"},
}


@cache
def installed(group: str) -> Mapping[str, EntryPoint]:
    """A group's entry points by name; of two packages that give one name, the first one found."""
    found: dict[str, EntryPoint] = {}
    for one in entry_points(group=group):
        found.setdefault(one.name, one)
    return found


def known(group: str) -> tuple[str, ...]:
    """The names of a group that stand for functions: fedha's own, then those of installed packages."""
    own = BUILT_IN.get(group, {})
    return (*own, *(name for name in installed(group) if name not in own))


def location(group: str, name: str) -> str:
    """The import name behind a name, ``package.module:function``, fedha's own first; any other name is its own."""
    own = BUILT_IN.get(group, {})
    if name in own:
        return own[name]
    return installed(group)[name].value if name in installed(group) else name


def adds(place: str) -> str | None:
    """Who adds an import name under a name of fedha's, for a sentence that begins so; None: nobody does."""
    for group in GROUPS:
        for point in installed(group).values():
            if point.value == place:
                return f"{whose(point)} adds {point.name!r} as {place}"
    return None


def load(group: str, name: str) -> Any:
    """What an installed name stands for.

    Raises:
        FedhaError: It is not permitted in this process; or its package is broken; names it.
    """
    point = installed(group)[name]
    permitted.check(f"{group.removeprefix('fedha.')} {name!r}", point.value)
    try:
        return point.load()
    except Exception as error:
        raise FedhaError(
            f"{whose(point)} adds {group} {name!r} as {point.value}, which cannot be imported: "
            f"{type(error).__name__}: {error}; mend or remove the package"
        ) from error


def made(group: str, name: str) -> Any:
    """What an installed name makes, where it names a function without arguments; else what it names.

    Raises:
        FedhaError: As `load`, or the function fails.
    """
    found, point = load(group, name), installed(group)[name]
    if not callable(found):
        return found
    try:
        return found()
    except Exception as error:
        raise FedhaError(
            f"{whose(point)} adds {group} {name!r} as {point.value}, which fails with {type(error).__name__}: {error}; "
            "mend or remove the package"
        ) from error


def whose(point: EntryPoint) -> str:
    """The package that an entry point belongs to."""
    return f"package {point.dist.name}" if point.dist is not None else "an installed package"
