"""The rules of a run: the one that its config names, and those that its recipe comes with."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedha import optimizers, plugins
from fedha.errors import FedhaError
from fedha.named import invoke, is_own, look_up
from fedha.recipes import Recipe
from fedha.registry import reference_of
from fedha.rules.groupdro import agnostic, group_dro
from fedha.rules.references import moving_references
from fedha.rules.rule import Rule
from fedha.rules.table import AVERAGINGS, RULES, USUAL, RuleRow, named_rule
from fedha.rules.torchs import torch_rule
from fedha.schema import nearest

if TYPE_CHECKING:
    from fedha.config import PrivacyConfig, TrainingConfig

KEY, AVERAGING_KEY = "training.optimizer", "training.weight_averaging"


def rules_of(recipe: Recipe, training: "TrainingConfig", privacy: "PrivacyConfig") -> tuple[Rule, ...]:
    """A run's rules, in the order in which they are applied.

    Raises:
        FedhaError: There is no such rule, or it does not go with the rest.
    """
    server, averaging = server_rule(training), averaging_rule(training)
    rules = (*rules_of_recipe(recipe), server, *([] if averaging is None else [averaging]))
    names = [rule.name for rule in rules]
    if len(set(names)) < len(names):
        raise FedhaError(f"recipe {recipe.name!r} comes with a rule {names[0]!r}; name yours otherwise")
    for rule in rules:
        if problem := refusal(rule, training, privacy):
            raise FedhaError(problem)
    if server.weigh is not None and privacy.protect == "examples":
        raise FedhaError(
            f"{KEY} is {server.name!r}, which weighs clients by numbers that are not released where privacy.protect "
            "is 'examples'; set it to nothing, or take recipe groupdro, whose risks are"
        )
    return rules


def rules_of_recipe(recipe: Recipe) -> tuple[Rule, ...]:
    """What a recipe asks of the server beside a mean."""
    decays = {reference_of(term.statistic): term.reference_average for term in recipe.terms if term.reference_average}
    by_risk = agnostic if recipe.projected else group_dro
    weighing = (by_risk(recipe.step_size),) if recipe.weighting == "risk" else ()
    return (*weighing, *((moving_references(decays),) if decays else ()))


def server_rule(training: "TrainingConfig") -> Rule:
    """The rule that a config names, or the mode's usual one.

    Raises:
        FedhaError: There is none of that name, or it cannot be made.
    """
    name, options = named_rule(training.optimizer or USUAL[training.mode])
    others = is_own(name) or name == "objects" or name in plugins.installed(plugins.RULES)
    if not others and (name not in RULES or options) and name in optimizers.known():
        return torch_rule(name, options, training)
    return _made(KEY, name, options, RULES, training)


def averaging_rule(training: "TrainingConfig") -> Rule | None:
    """The rule that says which model is evaluated and kept; None: the last one is.

    Raises:
        FedhaError: There is none of that name, it cannot be made, or it shows no model.
    """
    if training.weight_averaging is None:
        return None
    name, options = named_rule(training.weight_averaging)
    found = _made(AVERAGING_KEY, name, options, AVERAGINGS, training)
    if found.shows is None:
        raise FedhaError(f"{AVERAGING_KEY} is {name!r}, a rule that shows no model; give it `shows`")
    return found


def _made(
    key: str, name: str, options: Mapping[str, Any], rows: Mapping[str, RuleRow], training: "TrainingConfig"
) -> Rule:
    """The rule of a name."""
    if name == "objects":
        from fedha.objects import get_object  # which knows tensors

        found, options = get_object(key, options.get("digest")), {}
    else:
        row, packaged = rows.get(name), plugins.installed(plugins.RULES)
        if row is None and not (is_own(name) or name in packaged):
            raise FedhaError(f"there is no {key} {name!r}{nearest(name, [*rows, *packaged])}")
        found = look_up(key, plugins.location(plugins.RULES, name) if row is None else row.maker)
    if not isinstance(found, Rule):
        if not callable(found):
            raise FedhaError(f"{key} is {name!r}, which is a {type(found).__name__}; name a Rule, or what makes one")
        found = invoke(key, name, found, options, {"training": training})
    elif options:
        raise FedhaError(f"{key} {name!r} is a rule as it is and takes no {', '.join(options)}; name what makes one")
    if not isinstance(found, Rule):
        raise FedhaError(f"{key} is {name!r}, which makes a {type(found).__name__}; let it make a fedha.rules.Rule")
    return found


def refusal(rule: Rule, training: "TrainingConfig", privacy: "PrivacyConfig") -> str | None:
    """Why a rule does not go with the rest of a config, in a sentence; None if it does."""
    if training.mode not in rule.modes:
        return f"{KEY} is {rule.name!r}, which is for training.mode {' or '.join(rule.modes)}, not {training.mode}"
    if rule.at_clients and training.mode == "synchronous":
        return f"{KEY} is {rule.name!r}, which corrects clients' local steps; set training.mode to local"
    if rule.at_clients and privacy.protect != "nothing":
        return (
            f"{KEY} is {rule.name!r}, whose clients answer more than their update, and privacy.protect is "
            f"{privacy.protect!r}, which covers the update alone; set it to nothing, or take another optimizer"
        )
    if rule.hears is not None and training.stop is not None:
        return (
            f"rule {rule.name!r} shows what it made when training ends, and training.stop ends it by what was shown "
            "before; leave training.stop out"
        )
    if rule.hears is not None and privacy.protect == "examples":
        return (
            f"rule {rule.name!r} goes by the risk of what is held out, which is not sent where privacy.protect is "
            "'examples'; set it to nothing, or take another rule"
        )
    if problem := _unread(rule, training):
        return problem
    if rule.weigh is None:
        return None
    if privacy.secure_aggregation:
        return (
            f"rule {rule.name!r} weighs clients by their own numbers, which the server does not learn with "
            "privacy.secure_aggregation; set that to false, or take another rule"
        )
    if privacy.protect == "clients":
        return (
            f"rule {rule.name!r} weighs clients by their own numbers, which are no part of a clipped sum; set "
            "privacy.protect to examples or nothing, or take another rule"
        )
    return None


def _unread(rule: Rule, training: "TrainingConfig") -> str | None:
    """What of the rate a rule would pass over."""
    if training.mode == "synchronous":
        if training.rates and rule.aggregate is not None and is_own(_place(training)):
            return f"training.rates are not read by {KEY} {rule.name!r}, which takes the step itself; leave them out"
        return None
    if rule.answer is None or not rule.one_rate:
        return None
    for key, given in (("rates", training.rates), ("clip_norm", training.clip_norm)):
        if given:
            return (
                f"{KEY} is {rule.name!r}, whose clients answer what their steps at one rate added up to, and "
                f"training.{key} is {given}; leave it out, or take another optimizer"
            )
    if not isinstance(training.schedule, str) and training.schedule.by == "step":
        return (
            f"{KEY} is {rule.name!r}, whose clients answer what their steps at one rate added up to, and "
            "training.schedule.by is 'step'; set it to round, or take another optimizer"
        )
    return None


def _place(training: "TrainingConfig") -> str:
    """Where the rule that a config names is to be found: ``package.module:function`` of somebody's own."""
    name, _ = named_rule(training.optimizer or USUAL[training.mode])
    return name if name in RULES else ":" if name == "objects" else plugins.location(plugins.RULES, name)
