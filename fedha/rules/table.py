"""The server rules that a config can name: fedha's, those of installed packages, and somebody's own.

A new one is its file and a row here; a package adds one by an entry point of the group `fedha.rules` that names what
makes it; a config names ``package.module:function``. A message adds none: it may name what is installed, and of
somebody's own what this process was told of, by the config that it reads or by the program that it runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedha.errors import FedhaError
from fedha.named import is_own


@dataclass(frozen=True)
class RuleRow:
    """Where a rule is made.

    Attributes:
        mode: In which it makes sense.
        maker: The function that makes it, from the config's `training` where it asks for that.
        source: Where it was published.
        at_clients: Whether it does not go with everything, because clients do more than train.
        weighs: Whether it looks at each client's own numbers, which secure sums hide.
        options: What a config may give it beside its name: the maker's parameters.
        summary: What it does, in a phrase for tables.
    """

    mode: str
    maker: str
    source: str = ""
    at_clients: bool = False
    weighs: bool = False
    options: tuple[str, ...] = ()
    summary: str = ""


RULES: Mapping[str, RuleRow] = {
    "sgd": RuleRow("synchronous", "fedha.rules.optimizers:sgd", summary="a step along the mean gradient"),
    "adam": RuleRow(
        "synchronous", "fedha.rules.optimizers:adam", "Kingma and Ba, ICLR 2015", summary="Adam on the mean gradient"
    ),
    "fedavg": RuleRow(
        "local", "fedha.rules.optimizers:fedavg", "McMahan et al., AISTATS 2017", summary="the clients' mean move"
    ),
    "fedavgm": RuleRow(
        "local", "fedha.rules.optimizers:fedavgm", "Hsu et al., 2019", summary="their mean move, with momentum"
    ),
    "fedadam": RuleRow(
        "local", "fedha.rules.optimizers:fedadam", "Reddi et al., ICLR 2021", summary="Adam on their mean move"
    ),
    "fedyogi": RuleRow(
        "local",
        "fedha.rules.fedyogi:fedyogi",
        "Reddi et al., ICLR 2021",
        options=("beta_1", "beta_2", "tau"),
        summary="Yogi on their mean move",
    ),
    "fedprox": RuleRow(
        "local",
        "fedha.rules.fedprox:fedprox",
        "Li et al., MLSys 2020",
        at_clients=True,
        options=("mu",),
        summary="local steps are pulled back to the round's model",
    ),
    "scaffold": RuleRow(
        "local",
        "fedha.rules.scaffold:scaffold",
        "Karimireddy et al., ICML 2020",
        at_clients=True,
        summary="control variates in local steps",
    ),
    "qfedavg": RuleRow(
        "local",
        "fedha.rules.qfedavg:qfedavg",
        "Li et al., ICLR 2020",
        at_clients=True,
        options=("q",),
        summary="a larger risk counts more, by its power q",
    ),
    "fedgma": RuleRow(
        "local",
        "fedha.rules.fedgma:fedgma",
        "Tenison et al., TMLR 2023",
        at_clients=True,
        options=("threshold",),
        summary="moves count as far as the clients agree on their signs",
    ),
    "feddg_ga": RuleRow(
        "local",
        "fedha.rules.generalization:feddg_ga",
        "Zhang et al., CVPR 2023",
        at_clients=True,
        weighs=True,
        options=("step",),
        summary="clients with a larger generalization gap count more",
    ),
}

# What is evaluated and kept of the models of a run, beside any of these.
AVERAGINGS: Mapping[str, RuleRow] = {
    "ema": RuleRow(
        "both",
        "fedha.rules.averages:ema",
        "Polyak and Juditsky, 1992; Tarvainen and Valpola, NeurIPS 2017",
        options=("decay",),
        summary="a moving average of the rounds' models",
    ),
    "swad": RuleRow(
        "both",
        "fedha.rules.swad:swad",
        "Cha et al., NeurIPS 2021",
        options=("converge", "tolerance", "ratio"),
        summary="the mean of all models of the valley of the held-out risk",
    ),
}

USUAL: Mapping[str, str] = {"synchronous": "adam", "local": "fedavg"}  # by mode, where a config names none

_allowed: set[str] = set()


def allow(given: str | Mapping[str, Any] | None) -> None:
    """Make known to this process what its own config or program says of a rule, so that messages may name it too."""
    if given is not None:
        _allowed.add(named_rule(given)[0])


def check_allowed(given: str | Mapping[str, Any] | None) -> None:
    """Refuse a rule that a message names, where nobody in this process has named it: it would be imported and called.

    Raises:
        FedhaError: It is one.
    """
    name = "" if given is None else named_rule(given)[0]
    if is_own(name) and name not in _allowed:
        raise FedhaError(
            f"the server's rule is {name!r}, which this client was not started with; name it in the client's config, "
            f"or in client_app(…, rule={name!r})"
        )


def of_mode(mode: str) -> list[str]:
    """The names of the rules that make sense in a mode."""
    return [name for name, row in RULES.items() if row.mode == mode]


def named_rule(given: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A rule's name and arguments, out of what a config says: a name, or a mapping with one and the arguments."""
    if isinstance(given, str):
        return given, {}
    return str(given["name"]), {key: value for key, value in given.items() if key != "name"}
