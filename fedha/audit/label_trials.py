"""The attacks on label counts, tried on a release."""

from torch import Tensor

from fedha.audit import label_counts
from fedha.audit.baselines import placed_by_public, placed_by_uniform
from fedha.audit.case import Case, Outcomes

METHODS = ("labels_hessian", "labels_variance", "labels_public", "labels_uniform")  # the best first


def run(case: Case) -> Outcomes:
    """Every way to the label counts that this release allows."""
    for attack in METHODS:
        probabilities = mean_probabilities(case, attack)
        if isinstance(probabilities, str) or case.evidence.gradient is None:
            yield case.not_run(attack, str(probabilities))
            continue
        found = label_counts.label_distribution(case.evidence.gradient, probabilities)
        counts = label_counts.label_counts(found, case.sent.examples)
        if isinstance(case.truth, str):
            yield case.finding(attack, None, detail={"counts": counts.tolist()})
            continue
        truth = case.truth.distribution(case.attacker.classes)
        guess = placed_by_uniform(truth)
        if attack == "labels_public" and case.attacker.public is not None:
            guess = placed_by_public(truth, case.attacker.public)
        value = label_counts.placed_share(counts, truth)
        detail = {"counts": counts.tolist(), "truth": (truth * case.sent.examples).tolist()}
        yield case.finding(attack, value, guess, detail=detail)


def mean_probabilities(case: Case, method: str) -> Tensor | str:
    """The mean prediction as a method has it, or why it cannot."""
    evidence, head = case.evidence, case.sent.head
    if head is None:
        return "the head is not linear, so there is no closed form"
    if evidence.gradient is None:
        return evidence.missing["gradient"]
    if method == "labels_uniform":
        return label_counts.uniform_probabilities(case.attacker.classes)
    if method == "labels_hessian":
        if evidence.diagonal is None:
            return evidence.missing["diagonal"]
        moments = label_counts.moment_probabilities(head, evidence.diagonal)
        if evidence.exact and len(head) > 2:
            roots = label_counts.hessian_probabilities(evidence.diagonal)
            return label_counts.most_consistent(evidence.gradient, [roots, moments])
        return moments
    if method == "labels_variance":
        if evidence.variance is None:
            return evidence.missing["gradient_variance"]
        return label_counts.variance_probabilities(evidence.gradient, evidence.variance)
    features = None if case.attacker.public is None else case.features(case.attacker.public)
    if features is None:
        return "the attacker has no public inputs, or not the network's structure"
    return label_counts.public_probabilities(head, features)


def best_belief(case: Case) -> tuple[Tensor, Tensor] | str:
    """The mean prediction and the label distribution by the best method that can run, or why none can."""
    reason = ""
    for method in METHODS:
        probabilities = mean_probabilities(case, method)
        if not isinstance(probabilities, str) and case.evidence.gradient is not None:
            return probabilities, label_counts.label_distribution(case.evidence.gradient, probabilities)
        reason = str(probabilities)
    return reason
