"""Ranges of hyperparameters that others published, by name, in fedha's terms."""

from collections.abc import Mapping
from typing import Any

from fedha.errors import FedhaError
from fedha.schema import nearest

_Range = Mapping[str, Any]

_TRAINING: Mapping[str, Mapping[str, _Range]] = {
    # rate 10^U(-5, -3.5), batch 2^U(3, 5.5), decay 10^U(-6, -2); fedha's decay is half of torch's
    "domainbed": {
        "learning_rate": {"log_uniform": [-5, -3.5]},
        "batch_size": {"int_exp2_uniform": [3, 5.5]},
        "weight_decay": {"log_uniform": [-6.30103, -2.30103]},
    },
    # of its MNIST kinds: rate 10^U(-4.5, -2.5), batch 2^U(3, 9), no decay
    "domainbed-small": {
        "learning_rate": {"log_uniform": [-4.5, -2.5]},
        "batch_size": {"int_exp2_uniform": [3, 9]},
    },
}

_RECIPES: Mapping[str, Mapping[str, _Range]] = {
    "irm": {"weight": {"log_uniform": [-1, 5]}, "warmup_rounds": {"int_log_uniform": [0, 4]}},
    "vrex": {"weight": {"log_uniform": [-1, 5]}, "warmup_rounds": {"int_log_uniform": [0, 4]}},
    "coral": {"weight": {"log_uniform": [-0.522879, 1.477121]}},  # times 2E/(E-1), which is 3 for three sources
    "mmd": {"weight": {"log_uniform": [-0.522879, 1.477121]}},
    "rdm": {"weight": {"uniform": [0.1, 10]}},
    "groupdro": {"step_size": {"log_uniform": [-3, -1]}},
    "afl": {"step_size": {"log_uniform": [-3, -1]}},
    "fedsr": {  # a decade around the benchmark's weights
        "align": {
            "representation_norm": {"log_uniform": [-3, -1]},
            "conditional_information": {"log_uniform": [-4, -2]},
        }
    },
    "mixup": {"mixup_alpha": {"log_uniform": [-1, 1]}},
    "sam": {"sam_radius": {"log_uniform": [-2, -0.30103]}},  # the paper's grid goes from 0.01 to 0.5
    "fediir": {"weight": {"log_uniform": [-4, -2]}},  # the authors' weights are 5e-4 to 5e-3
    "cma_diagonal": {"hessian_weight": {"log_uniform": [0, 4]}, "gradient_weight": {"log_uniform": [0, 4]}},  # ours
    "fishr": {
        "weight": {"log_uniform": [1, 4]},
        "warmup_rounds": {"int_uniform": [0, 5000]},
        "moving_average": {"uniform": [0.9, 0.99]},
    },
    "iga": {"weight": {"log_uniform": [1, 5]}},
    "hgp": {"hessian_weight": {"log_uniform": [-5, -3]}, "gradient_weight": {"log_uniform": [-3, -1]}},
    "hutchinson": {"hessian_weight": {"log_uniform": [1, 4]}, "gradient_weight": {"log_uniform": [2, 6]}},
    "hutchinson_expected": {"hessian_weight": {"log_uniform": [1, 4]}, "gradient_weight": {"log_uniform": [2, 6]}},
    "exact_diagonal": {"hessian_weight": {"log_uniform": [1, 4]}, "gradient_weight": {"log_uniform": [2, 6]}},
}


# Of the server's rules, and of the averages of weights: their options, and keys of the training section.
_RULES: Mapping[str, Mapping[str, _Range]] = {
    "fedprox": {"mu": {"log_uniform": [-3, 0]}},  # the paper's grid
    "qfedavg": {"q": {"log_uniform": [-3, 1.176091]}},  # the paper's, 0.001 to 15
    "fedgma": {"threshold": {"uniform": [0.1, 0.9]}},  # the paper's
    "feddg_ga": {"step": {"uniform": [0.05, 0.5]}},  # around the authors' 0.2
    "fedyogi": {"tau": {"log_uniform": [-5, -1]}},  # the paper's
    "ema": {"decay": {"choice": [0.9, 0.99, 0.999]}},
    "swad": {"ratio": {"choice": [1.2, 1.3]}},  # the paper's
}
_WITH_RULES: Mapping[str, Mapping[str, _Range]] = {
    "fedavgm": {"momentum": {"choice": [0.7, 0.9, 0.97]}},  # of the paper's grid
    "fedadam": {"learning_rate": {"log_uniform": [-3, 0.5]}},  # the paper's
    "fedyogi": {"learning_rate": {"log_uniform": [-3, 0.5]}},
}


def with_ranges(content: Mapping[str, Any], name: str | None) -> dict[str, Any]:
    """A sweep's content with distributions for what it does not say itself.

    The ranges are those of DomainBed's ``hparams_registry`` and, for HGP and Hutchinson, of the authors' fork of it,
    turned into fedha's terms as docs/conventions.md says; those of rules are their papers'. A recipe without a range of
    its own keeps its row's weights.

    Args:
        content: As YAML gives it, targets resolved.
        name: ``domainbed``, ``domainbed-small`` (its MNIST kinds), or None for none.

    Raises:
        FedhaError: There are no ranges of that name.
    """
    if name is None:
        return dict(content)
    if name not in _TRAINING:
        raise FedhaError(f"there are no ranges {name!r}{nearest(name, _TRAINING)}")
    training = content.get("training", {})
    given = content.get("recipe", "hgp")
    recipes = [_ranged(one) for one in (given if isinstance(given, list) else [given])]
    mode = training.get("mode", "synchronous") if isinstance(training, Mapping) else "synchronous"
    return {**content, "training": _filled(_ruled(training), _TRAINING[name], mode), "recipe": recipes}


def _ruled(training: Any) -> Any:
    """A training section with ranges for the options of the rules that it names.

    Raises:
        FedhaError: Several rules are named, each of which has ranges of its own.
    """
    if not isinstance(training, Mapping):
        return training
    found = dict(training)
    for key in ("optimizer", "weight_averaging"):
        given = found.get(key)
        if isinstance(given, list) and (ranged := [one for one in given if _rule_name(one) in _RULES]):
            raise FedhaError(
                f"training.{key} is a list and {_rule_name(ranged[0])!r} in it has a range of its own; make a sweep "
                "for each, and one table of all: fedha table A B"
            )
        name = _rule_name(given)
        if name in _RULES:
            own = dict(given) if isinstance(given, Mapping) else {"name": name}
            found[key] = {**_RULES[name], **own}
        found = {**_WITH_RULES.get(name, {}), **found}
    return found


def _rule_name(given: Any) -> str:
    return str(given.get("name")) if isinstance(given, Mapping) else str(given)


def _ranged(entry: Any) -> Any:
    found = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(found, Mapping) or "align" in found:
        return entry
    return {**found, **{key: one for key, one in _RECIPES.get(str(found.get("name")), {}).items() if key not in found}}


def _filled(training: Any, ranges: Mapping[str, _Range], mode: str) -> Any:
    if not isinstance(training, Mapping):
        return training
    if mode != "local":
        return {**ranges, **training}
    clients = {key: one for key, one in ranges.items() if key != "weight_decay"}
    decay = {key: one for key, one in ranges.items() if key == "weight_decay"}
    local = training.get("local", {})
    return {**decay, **training, "local": {**clients, **local} if isinstance(local, Mapping) else local}
