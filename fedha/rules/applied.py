"""A run's rules at work. What they keep is kept for each by itself; what travels is called ``rule's name/its name``."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fedha.errors import FedhaError, failing_line
from fedha.rules.returned import check_weights, one, two
from fedha.rules.rule import Answers, Cohort, Named, Rule, Step, Work

Rules = Sequence[Rule]
States = dict[str, dict[str, Tensor]]  # the server's tensors, by rule

EXTRA = "rule/"  # before the name of what a rule has clients answer beside their update


def begin(rules: Rules, parameters: Named) -> States:
    """The server's tensors at the start of a run."""
    return {rule.name: _made(rule, "init", rule.init, parameters) for rule in rules}


def sent_along(rules: Rules, states: Mapping[str, Named]) -> dict[str, Tensor]:
    """What goes along with a request to train."""
    return _joined(rules, lambda rule: _made(rule, "sends", rule.sends, states[rule.name]))


def weighed(rules: Rules, states: States, cohort: Cohort) -> tuple[Mapping[int, float], States]:
    """The weights of the clients' updates by client id, and the server's tensors after it.

    Args:
        rules: The run's.
        states: The server's tensors.
        cohort: The round's; what its clients were told to answer has the rules' names in front.
    """
    for rule in rules:
        if rule.weigh is not None:
            with _blaming(rule, "weigh"):
                told = {who: below(tensors, f"{EXTRA}{rule.name}/") for who, tensors in cohort.told.items()}
                weights, state = two(rule, "weigh", rule.weigh(states[rule.name], replace(cohort, told=told)))
            check_weights(rule, weights, cohort.examples)
            states, cohort = states | {rule.name: state}, replace(cohort, weights=weights)
    return cohort.weights, states


def referred(rules: Rules, states: States, references: Named) -> tuple[dict[str, Tensor], States]:
    """What clients are told as references, and the server's tensors after it."""
    for rule in rules:
        if rule.refer is not None:
            with _blaming(rule, "refer"):
                told, state = two(rule, "refer", rule.refer(states[rule.name], references))
            _check_alike(rule, "refer", "references", told, references)
            references, states = told, states | {rule.name: state}
    return dict(references), states


def aggregated(rules: Rules, states: States, answers: Answers) -> tuple[dict[str, Tensor], States]:
    """The new parameters, and the server's tensors after it.

    Args:
        rules: The run's.
        states: The server's tensors.
        answers: The means; what rules had clients answer beside the update has their names in front.

    Raises:
        FedhaError: A rule fails, or gives parameters of other names, shapes or types.
    """
    parameters: Named = answers.parameters
    for rule in rules:
        if rule.aggregate is not None:
            own = replace(answers, parameters=parameters, extra=below(answers.extra, f"{rule.name}/"))
            with _blaming(rule, "aggregate"):
                parameters, state = two(rule, "aggregate", rule.aggregate(states[rule.name], own))
            _check_alike(rule, "aggregate", "parameters", parameters, answers.parameters)
            states = states | {rule.name: state}
    return dict(parameters), states


def shown(rules: Rules, states: States, parameters: Named, over: bool) -> dict[str, Tensor]:
    """The parameters that are evaluated and kept.

    Args:
        rules: The run's.
        states: The server's tensors.
        parameters: Those that are trained.
        over: Whether training is.

    Raises:
        FedhaError: A rule fails, or gives parameters of other names, shapes or types.
    """
    found: Named = parameters
    for rule in rules:
        if rule.shows is not None:
            with torch.no_grad(), _blaming(rule, "shows"):
                found = one(rule, "shows", rule.shows(states[rule.name], found, over))
            _check_alike(rule, "shows", "parameters", found, parameters)
    return dict(found)


def heard(rules: Rules, states: States, risk: float) -> States:
    """The server's tensors after an evaluation.

    Args:
        rules: The run's.
        states: The server's tensors.
        risk: The mean over the source domains of the risk of what is held out, at the trained parameters.
    """
    for rule in rules:
        if rule.hears is not None:
            with torch.no_grad(), _blaming(rule, "hears"):
                states = states | {rule.name: one(rule, "hears", rule.hears(states[rule.name], risk))}
    return states


def client_start(rules: Rules, own: Named, parameters: Named) -> dict[str, Tensor]:
    """What a client remembers of the rules when it begins to train: from before, or as it starts."""
    return _joined(
        rules,
        lambda rule: below(own, f"{rule.name}/") or _made(rule, "init_client", rule.init_client, parameters),
    )


def correction(rules: Rules, start: Named, sent: Named, own: Named) -> Callable[[Named, Named], dict[str, Tensor]]:
    """What makes of a gradient the one that a local step takes; also given where it was taken.

    Args:
        rules: The run's.
        start: The round's global model.
        sent: What the server sent along.
        own: Of `client_start`.
    """
    parts = [(rule, below(sent, f"{rule.name}/"), below(own, f"{rule.name}/")) for rule in rules]

    def corrected(gradient: Named, parameters: Named) -> dict[str, Tensor]:
        for rule, along, remembered in parts:
            if rule.correct is not None:
                with torch.no_grad(), _blaming(rule, "correct"):
                    given = rule.correct(Step(gradient, parameters, start, along, remembered))
                gradient = one(rule, "correct", given)
        return dict(gradient)

    return corrected


def answered(rules: Rules, work: Work) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What a client answers beside its update, and what it remembers of the rules from then on.

    Args:
        rules: The run's.
        work: Its round; what was sent, and its own tensors, have the rules' names in front.

    Raises:
        FedhaError: A rule fails, or remembers something else than what it began with.
    """
    extra, own = dict[str, Tensor](), dict(work.state)
    for rule in rules:
        if rule.answer is None:
            continue
        prefix = f"{rule.name}/"
        mine = below(work.state, prefix)
        with torch.no_grad(), _blaming(rule, "answer"):
            given = rule.answer(replace(work, sent=below(work.sent, prefix), state=mine))
            told, kept = two(rule, "answer", given)
        _check_alike(rule, "answer", "a client's tensors", kept, mine)
        extra |= {f"{EXTRA}{prefix}{name}": value for name, value in told.items()}
        own |= {f"{prefix}{name}": value for name, value in kept.items()}
    return extra, own


def answer_shapes(rules: Rules, parameters: Named) -> dict[str, torch.Size]:
    """What clients will answer beside their updates, by name, found by trying the rules on a step along ones.

    Raises:
        FedhaError: A rule fails, or its functions do not fit each other: said before the first round.
    """
    ones = {name: torch.ones_like(value) for name, value in parameters.items()}
    end = {name: value - 1 for name, value in parameters.items()}
    before = [value.clone() for value in (*parameters.values(), *ones.values(), *end.values())]
    states = begin(rules, parameters)
    sent, own = sent_along(rules, states), client_start(rules, {}, parameters)
    gradient = correction(rules, parameters, sent, own)(ones, parameters)
    risks = {"start": 1.0, "end": 1.0}
    extra, _ = answered(rules, Work(parameters, end, 1, 1.0, sent, own, risks))
    for rule in rules:
        if rule.correct is not None:
            _check_alike(rule, "correct", "a gradient", gradient, ones)
        for name, value in below(extra, f"{EXTRA}{rule.name}/").items():
            if not isinstance(value, Tensor) or not value.is_floating_point():
                raise FedhaError(
                    f"rule {rule.name!r}: its answer gives {name!r} as {_described(value)}, which cannot be averaged; "
                    "make it a floating-point tensor"
                )
    moved, after = aggregated(rules, states, Answers(parameters, ones, below(extra, EXTRA), 1.0, 1, 1))
    if not all(map(torch.equal, before, (*parameters.values(), *ones.values(), *end.values()))):
        names = " or ".join(repr(rule.name) for rule in rules)
        raise FedhaError(
            f"rule {names} changes tensors that it is given in place; give new ones, as in `parameters[name] - "
            "update[name]`"
        )
    after = heard(rules, after, 1.0)
    shown(rules, after, moved, True)
    try:
        check_states(rules, parameters, after)
    except ValueError as error:
        raise FedhaError(f"what the server remembers must keep names, shapes and types: {error}") from error
    return {name: value.shape for name, value in extra.items()}


def check_states(rules: Rules, parameters: Named, states: Mapping[str, Named]) -> None:
    """Look whether tensors are those that these rules keep of such parameters.

    Raises:
        ValueError: One is missing, or has another shape or type.
    """
    for name, wanted in begin(rules, parameters).items():
        found = states.get(name, {})
        for key, value in wanted.items():
            if key not in found or _kind(found[key]) != _kind(value):
                told = f"{found[key].dtype} of shape {tuple(found[key].shape)}" if key in found else "missing"
                raise ValueError(f"{key} of rule {name} is {told}, not {value.dtype} of shape {tuple(value.shape)}")


def below(tensors: Named, prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _joined(rules: Rules, of: Callable[[Rule], Named]) -> dict[str, Tensor]:
    return {f"{rule.name}/{name}": value for rule in rules for name, value in of(rule).items()}


def _made(rule: Rule, part: str, function: Callable[[Named], Named], given: Named) -> dict[str, Tensor]:
    with torch.no_grad(), _blaming(rule, part):
        return one(rule, part, function(given))


def _check_alike(rule: Rule, part: str, what: str, given: Mapping[str, Any], wanted: Named) -> None:
    """Refuse what a rule's function gave where names, shapes or types are not what they must be."""
    if given.keys() != wanted.keys():
        odd = sorted(given.keys() ^ wanted.keys())[0]
        raise FedhaError(
            f"rule {rule.name!r}: its {part} gives {what} {'without' if odd in wanted else 'with'} {odd!r}; keep the "
            "names that it was given"
        )
    for name, value in wanted.items():
        if not isinstance(given[name], Tensor) or _kind(given[name]) != _kind(value):
            raise FedhaError(
                f"rule {rule.name!r}: its {part} gives {name!r} of {what} as {_described(given[name])}, not as "
                f"{_described(value)}; keep shapes and types"
            )


def _described(value: object) -> str:
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _kind(value: Tensor) -> tuple[torch.Size, torch.dtype]:
    return value.shape, value.dtype


@contextmanager
def _blaming(rule: Rule, part: str) -> Iterator[None]:
    """Say whose function failed, and where."""
    try:
        yield
    except FedhaError:
        raise
    except Exception as error:
        raise FedhaError(
            f"rule {rule.name!r}: its {part} fails with {type(error).__name__}: {error} ({failing_line(error)}); "
            "mend it"
        ) from error
