"""The audit: every attack that applies, on every release of a run and on its final model."""

from collections.abc import Collection, Iterable, Mapping

from torch import Tensor

from fedha.audit import feature_trials, final_trials, input_trials, label_trials, question_trials, tracing_trials
from fedha.audit.attacker import Attacker
from fedha.audit.attacks import ATTACKS
from fedha.audit.case import Outcome, Outcomes, make_case
from fedha.audit.findings import Curve, Finding, Findings, NotRun, Picture
from fedha.audit.sent import Sent
from fedha.data.domain import Domain


def audit(
    sent: Iterable[Sent],
    truth: Mapping[int, Domain] | None,
    attacker: Attacker,
    *,
    final: Mapping[str, Tensor] | None = None,
    input_shape: tuple[int, ...] | None = None,
    attacks: Collection[str] = tuple(ATTACKS),
) -> Findings:
    """Attack what was sent, and say of each attack how it did or why it could not run.

    Args:
        sent: Releases, round after round; read once, one at a time.
        truth: The clients' domains by client id, to score the attacks with; None where they are not known. Attacks then
            still say what they recovered, without a score.
        attacker: What is known beside the releases.
        final: The trained model's parameters, for membership; None to leave that out.
        input_shape: Of one input, where there is no truth to take it from.
        attacks: Keys of `ATTACKS`; the others are not run.

    Returns:
        The same input gives the same findings up to rounding, which a long inversion amplifies.
        Of ROC curves, the last release's of each client is kept.
    """
    if input_shape is None and truth:
        input_shape = next(iter(truth.values())).train.shape
    outcomes: list[Outcome] = []
    inversions = attacker.inversions
    for one in sent:
        inverted = inversions > 0 and one.examples <= attacker.inversion_examples
        inversions -= inverted
        outcomes += _release(one, truth, attacker, input_shape, inverted, frozenset(attacks))
    if wanted := [one for one in final_trials.ATTACKS if one in attacks]:
        outcomes += final_trials.run(final, truth, attacker, wanted)
    if final is not None and not set(attacks).isdisjoint(question_trials.ATTACKS):
        outcomes += question_trials.run(final, truth, attacker)
    outcomes = [one for one in outcomes if one.attack in attacks]
    settings = attacker.inversion
    return Findings(
        tuple(one for one in outcomes if isinstance(one, Finding)),
        tuple(one for one in outcomes if isinstance(one, NotRun)),
        tuple(one for one in outcomes if isinstance(one, Picture)),
        _last(one for one in outcomes if isinstance(one, Curve)),
        (0.0 if settings.low is None else settings.low, 1.0 if settings.high is None else settings.high),
    )


def _release(
    one: Sent,
    truth: Mapping[int, Domain] | None,
    attacker: Attacker,
    input_shape: tuple[int, ...] | None,
    inverted: bool,
    attacks: frozenset[str],
) -> Outcomes:
    case = make_case(one, attacker, truth, inverted)
    if not attacks.isdisjoint(label_trials.METHODS):
        yield from label_trials.run(case)
    if not attacks.isdisjoint(feature_trials.ATTACKS):
        yield from feature_trials.run(case)
    if not attacks.isdisjoint(input_trials.ATTACKS):
        yield from input_trials.run(case, input_shape)
    if not attacks.isdisjoint(tracing_trials.ATTACKS):
        yield from tracing_trials.run(case)


def _last(curves: Iterable[Curve]) -> tuple[Curve, ...]:
    return tuple({(one.attack, one.client): one for one in curves}.values())
