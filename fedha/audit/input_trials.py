"""The attacks on inputs, tried on a release of few examples."""

import statistics
from collections.abc import Mapping

import torch
from torch import Tensor

from fedha.audit.baselines import middle_input
from fedha.audit.case import Case, Outcomes
from fedha.audit.evidence import plain_update
from fedha.audit.findings import Picture
from fedha.audit.inversion import first_layer_input, invert
from fedha.audit.label_counts import label_counts
from fedha.audit.label_trials import best_belief
from fedha.audit.matching import matched
from fedha.audit.scores import psnr, ssim
from fedha.data.examples import Examples
from fedha.models.split import SplitModel
from fedha.models.state import trained_parameters

ATTACKS = ("input_exact", "input_update", "input_head")


def run(case: Case, input_shape: tuple[int, ...] | None) -> Outcomes:
    """Recover the inputs by division or by inversion, and compare them with the originals.

    Args:
        case: The release.
        input_shape: Of one input; None where nobody knows it.
    """
    model, most = case.attacker.model, case.attacker.inversion_examples
    if model is None or input_shape is None:
        yield from (
            case.not_run(attack, "the network's structure or its input's shape is not known") for attack in ATTACKS
        )
        return
    if not isinstance(case.truth, str) and not _continuous(case.truth.members):
        yield from (
            case.not_run(attack, "inputs are whole numbers or several: no gradient leads to them") for attack in ATTACKS
        )
        return
    yield from _exact(case, model, input_shape)
    if case.sent.examples > most:
        reason = f"the release is a mean over {case.sent.examples} examples; batches of up to {most} are inverted"
    else:
        reason = "" if case.inverted else "the budget of inversions went to earlier releases"
    if reason:
        yield from (case.not_run(attack, reason) for attack in ATTACKS[1:])
        return
    for attack, target in (("input_update", _update(case)), ("input_head", _head(case))):
        yield from _invert(case, model, attack, target, input_shape)


def _continuous(examples: Examples) -> bool:
    """Whether one tensor of floating numbers is all that an example is, once it is taken."""
    form = examples.form
    return form.alone and form.kinds[0].is_floating_point


def _exact(case: Case, model: SplitModel, input_shape: tuple[int, ...]) -> Outcomes:
    update = plain_update(case.sent, case.attacker)
    if case.sent.examples != 1:
        yield case.not_run("input_exact", f"the release is a mean over {case.sent.examples} examples")
    elif update is None:
        yield case.not_run("input_exact", "no update was sent that is a plain gradient")
    else:
        found = first_layer_input(model, update, input_shape)
        if found is None:
            yield case.not_run("input_exact", "the first layer is not linear with a bias, or passed nothing back")
        else:
            yield from _compare(case, "input_exact", found[None])


def _invert(
    case: Case,
    model: SplitModel,
    attack: str,
    target: Mapping[str, Tensor] | Tensor | str,
    input_shape: tuple[int, ...],
) -> Outcomes:
    belief = best_belief(case)
    if isinstance(target, str) or isinstance(belief, str):
        yield case.not_run(attack, target if isinstance(target, str) else str(belief))
        return
    counts = label_counts(belief[1], case.sent.examples)
    labels = torch.arange(len(counts)).repeat_interleave(counts)
    key = (attack, case.sent.round, "aggregate" if case.sent.client is None else case.sent.client)
    settings, seed = case.attacker.inversion, case.attacker.seed
    found = invert(model, case.sent.parameters, target, labels, input_shape, settings, seed, *key)
    yield from _compare(case, attack, found.inputs, loss=found.loss)


def _compare(case: Case, attack: str, found: Tensor, loss: float | None = None) -> Outcomes:
    sent, settings = case.sent, case.attacker.inversion
    images = found.dim() == 4
    if isinstance(case.truth, str):
        yield case.finding(attack, None, detail={"loss": loss})
        for one in found if images else ():
            yield Picture(attack, sent.round, sent.client, None, one.tolist(), None, None)
        return
    originals = case.truth.members.numbers()[""]
    low, high = settings.low, settings.high
    if low is None or high is None:
        low, high = float(originals.min()), float(originals.max())
    span = max(high - low, 1e-12)
    found = matched(originals, found, span)
    decibels = [psnr(one, other, span) for one, other in zip(originals, found, strict=True)]
    likeness = [ssim(one, other, span) for one, other in zip(originals, found, strict=True)] if images else []
    middle = middle_input(originals.shape[1:], settings.low, settings.high, case.attacker.public)
    guess = statistics.fmean(psnr(one, middle, span) for one in originals)
    detail = {"psnr": decibels, "ssim": likeness, "loss": loss}
    yield case.finding(attack, statistics.fmean(decibels), guess, detail=detail)
    if images and sent.examples <= case.attacker.inversion_examples:
        for original, other, decibel, similar in zip(originals, found, decibels, likeness, strict=True):
            images_ = (original.tolist(), other.tolist())
            yield Picture(attack, sent.round, sent.client, *images_, decibel, similar)


def _update(case: Case) -> Mapping[str, Tensor] | str:
    """What to match: a local update has no known size, but its direction is what the cosine compares."""
    if case.sent.update is None:
        return "no update was sent"
    if not case.sent.update.keys() >= trained_parameters(case.attacker.model).keys():  # type: ignore[arg-type]
        return "the update does not hold every parameter"
    return plain_update(case.sent, case.attacker) or case.sent.update


def _head(case: Case) -> Tensor | str:
    if case.evidence.gradient is None or case.sent.head is None:
        return case.evidence.missing.get("gradient") or "the head is not linear"
    return case.evidence.gradient
