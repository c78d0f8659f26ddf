"""Membership from what was sent, tried on a release."""

import torch
from torch import Tensor

from fedha.audit.case import Case, Outcomes
from fedha.audit.evidence import DIAGONALS
from fedha.audit.judging import judge
from fedha.audit.tracing import example_terms, membership_scores
from fedha.audit.truth import Truth
from fedha.data.domain import Examples
from fedha.randomness import generator

MOST = 512  # members, and others
FOLDS = 5
_JOINT = "tracing_joint"
_SINGLE = ("tracing_gradient", "tracing_diagonal", "tracing_feature_mean")
ATTACKS = (*_SINGLE, _JOINT)


def run(case: Case) -> Outcomes:
    """Trace members through each statistic that was sent, and through all of them together."""
    reason, released = _reason(case), _released(case)
    if reason or isinstance(case.truth, str):
        yield from (case.not_run(attack, reason) for attack in ATTACKS)
        return
    for attack in _SINGLE:
        if attack not in released:
            yield case.not_run(attack, "the statistic was not sent as it is")
    sent, folds = case.sent, _folds(case, case.truth)
    groups = {attack: [attack] for attack in released} | ({_JOINT: list(released)} if len(released) > 1 else {})
    members, others = (
        {attack: _terms(case, name, part) for attack, (name, _) in released.items()}
        for part in (case.truth.members, case.truth.others)
    )
    for attack, names in groups.items():
        value = torch.cat([released[name][1].flatten() for name in names])
        inside, outside = (torch.cat([part[name] for name in names], 1) for part in (members, others))
        scores = []
        for judged, counted, known in folds:
            candidates = torch.cat([inside[judged], outside[counted]])
            found = membership_scores(value, sent.examples, candidates, outside[known])
            scores.append(found.split([len(judged), len(counted)]))
        both = (torch.cat([one for one, _ in scores]), torch.cat([other for _, other in scores]))
        yield from judge(attack, sent.round, sent.client, sent.examples, both, case.attacker.seed)


def _released(case: Case) -> dict[str, tuple[str, Tensor]]:
    """By attack: the statistic's name, and what was sent of it."""
    known = {k: v for k, v in case.sent.statistics.items() if k not in case.attacker.averaged}
    found: dict[str, tuple[str, Tensor]] = {}
    if case.evidence.gradient is not None:
        found["tracing_gradient"] = ("gradient", case.evidence.gradient)
    if case.evidence.diagonal is not None:
        found["tracing_diagonal"] = (DIAGONALS[0], case.evidence.diagonal)
    if "feature_mean" in known:
        found["tracing_feature_mean"] = ("feature_mean", known["feature_mean"])
    return found


def _reason(case: Case) -> str:
    """Why nothing can be traced, or ""."""
    if case.sent.head is None:
        return "the head is not linear, so an example's own term has no closed form"
    if case.attacker.model is None:
        return "the network's structure is not known"
    if isinstance(case.truth, str):
        return case.truth
    if not _released(case):
        return "no statistic was sent that is a mean over examples"
    if len(case.truth.others) < 3:
        return f"the clients hold out {len(case.truth.others)} examples, too few to compare members with"
    return ""


def _folds(case: Case, truth: Truth) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Places of members and of others that are judged together, and of the others that are known meanwhile.

    The attacker knows other examples of the very same domain, the strongest case: those that the clients hold out. None
    is known while it is judged itself, and members are judged with as many known.
    """
    sent, seed = case.sent, case.attacker.seed
    draws = generator(seed, "tracing", "aggregate" if sent.client is None else sent.client)
    others = torch.randperm(len(truth.others), generator=draws)[:MOST]
    members = torch.randperm(len(truth.members), generator=draws)[:MOST]
    count = min(FOLDS, len(others))
    parts = zip(members.tensor_split(count), others.tensor_split(count), strict=True)
    return [(inside, outside, others[~torch.isin(others, outside)]) for inside, outside in parts]


def _terms(case: Case, name: str, examples: Examples) -> Tensor:
    features, head = case.features(examples), case.sent.head
    if features is None or head is None:
        raise ValueError("terms need the network's structure and a linear head; ask _reason first")
    return example_terms(name, head, features, examples.labels)
