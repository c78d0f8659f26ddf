"""The attacks on features, tried on a release."""

from torch import Tensor

from fedha.audit import features as forms
from fedha.audit.case import Case, Outcomes
from fedha.audit.findings import Finding
from fedha.audit.label_trials import best_belief
from fedha.audit.truth import Truth

ATTACKS = ("feature_exact", "feature_class_means", "feature_moments")


def run(case: Case) -> Outcomes:
    """One example's feature exactly; class means and second moments of several."""
    if case.sent.head is None:
        for attack in ATTACKS:
            yield case.not_run(attack, "the head is not linear, so there is no closed form")
        return
    yield from _exact(case)
    yield from _class_means(case)
    yield from _moments(case)


def _exact(case: Case) -> Outcomes:
    if case.sent.examples != 1:
        yield case.not_run("feature_exact", f"the release is a mean over {case.sent.examples} examples")
        return
    known = {k: v for k, v in case.sent.statistics.items() if k not in case.attacker.averaged}
    sources = {name: known[name] for name in forms.OUTER_PRODUCTS if name in known}
    if case.evidence.source == "update" and case.evidence.gradient is not None:
        sources["update"] = case.evidence.gradient
    if not sources and "feature_mean" not in known:
        yield case.not_run("feature_exact", "nothing of rank one was sent")
        return
    for source, statistic in sources.items():
        yield _against(case, "feature_exact", forms.exact_feature(statistic), source)
    if "feature_mean" in known:
        yield _against(case, "feature_exact", known["feature_mean"], "feature_mean")


def _class_means(case: Case) -> Outcomes:
    attack = "feature_class_means"
    belief, mean = best_belief(case), _mean_feature(case)
    if case.sent.examples == 1:
        yield case.not_run(attack, "the feature of a single example is recovered as it is")
    elif isinstance(belief, str) or case.evidence.gradient is None:
        yield case.not_run(attack, str(belief))
    elif mean is None:
        yield case.not_run(
            attack, "neither a feature mean nor a Hessian diagonal was sent, and there are no public inputs"
        )
    else:
        estimate = forms.class_means(case.evidence.gradient, *belief, mean)
        behind = _behind(case)
        if isinstance(behind, str):
            yield case.finding(attack, None, detail={"means": estimate.tolist()})
            return
        truth, z = behind
        shares = truth.distribution(case.attacker.classes)
        actual = forms.true_class_means(z, truth.members.labels, truth.weights, len(shares))
        guess = (truth.weights.to(z) @ z).expand_as(actual)
        yield case.finding(
            attack,
            forms.cosine(estimate, actual, shares),
            forms.cosine(guess, actual, shares),
            detail={
                "relative_error": forms.relative_error(estimate, actual, shares),
                "relative_error_of_guess": forms.relative_error(guess, actual, shares),
            },
        )


def _moments(case: Case) -> Outcomes:
    attack = "feature_moments"
    if case.evidence.diagonal is None:
        yield case.not_run(attack, case.evidence.missing["diagonal"])
        return
    yield _against(case, attack, forms.second_moments(case.evidence.diagonal), "diagonal", square=True)


def _against(case: Case, attack: str, estimate: Tensor, source: str, square: bool = False) -> Finding:
    """An estimate of the mean feature, or of its mean square, beside the truth and beside the guess."""
    behind = _behind(case)
    if isinstance(behind, str):
        return case.finding(attack, None, detail={"source": source, "estimate": estimate.tolist()})
    truth, z = behind
    values = z.square() if square else z
    actual, guess = truth.weights.to(z) @ values, _guess(case, truth, square)
    return case.finding(
        attack,
        forms.relative_error(estimate, actual),
        None if guess is None else forms.relative_error(guess, actual),
        detail={"source": source, "cosine": forms.cosine(estimate, actual)},
    )


def _guess(case: Case, truth: Truth, square: bool) -> Tensor | None:
    """The same mean over public inputs, or over the clients' own held-out examples."""
    examples = case.attacker.public if case.attacker.public is not None else truth.others
    features = case.features(examples) if len(examples) else None
    if features is None:
        return None
    return (features.square() if square else features)[:, :-1].mean(0)


def _mean_feature(case: Case) -> Tensor | None:
    """The feature mean: as sent, from an exact diagonal, of public inputs, or from a noisy diagonal."""
    evidence = case.evidence
    if evidence.feature_mean is not None:
        return evidence.feature_mean
    public = None if case.attacker.public is None else case.features(case.attacker.public)
    if evidence.diagonal is not None and (evidence.exact or public is None):
        return forms.second_moments(evidence.diagonal).sqrt()
    return None if public is None else public[:, :-1].mean(0)


def _behind(case: Case) -> tuple[Truth, Tensor] | str:
    """The examples and their features, [n, D - 1], or why they are not known."""
    if isinstance(case.truth, str):
        return case.truth
    features = case.features(case.truth.members)
    return "the network's structure is not known" if features is None else (case.truth, features[:, :-1])
