"""A diagnosis of one finished run: what was asked for, as plain values that a file can hold."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

from fedha.config import Config
from fedha.data.domain import DomainSet
from fedha.diagnosis import attributes, curvature
from fedha.diagnosis.attributes import Side
from fedha.diagnosis.party import Party, pooled
from fedha.diagnosis.published import published
from fedha.diagnosis.sample import Sample, logit_unit
from fedha.diagnosis.settings import Mode, Settings
from fedha.diagnosis.shift import Placed, estimate, given_inputs, together
from fedha.diagnosis.subject import Subject, Told, check_config, looked_at
from fedha.diagnosis.transfer import Transfer, both_ways, worst_pair
from fedha.diagnosis.weighted import shared_directions
from fedha.errors import FedhaError, listed
from fedha.models.split import SplitModel
from fedha.runs.versions import versions

SOURCES = "the sources' mean"
_FEW = 5  # sources of which every pair is compared in every attribute
_LARGEST_PENCIL = 600  # weights of a head up to which the ratio of curvatures is computed


def diagnose(
    model: SplitModel, config: Config, domains: DomainSet, settings: Settings, told: Told, *, round: int, rule: str = ""
) -> dict[str, Any]:
    """Measure a learned head on its domains.

    Args:
        model: With its learned weights, in evaluation mode.
        config: One recipe, one seed.
        domains: The run's data.
        settings: What is asked for.
        told: Told of progress.
        round: After which the model was recorded.
        rule: That took this round, or "".

    Returns:
        Plain values: ``made``, ``domains``, and a part for each row of the settings.

    Raises:
        FedhaError: The run cannot be diagnosed, or not so.
    """
    begun = time.perf_counter()
    check_config(config)
    mode, to, notes = _who(config, domains, settings)
    with looked_at(model, config, domains, told) as subject:
        told("size of the features", 0, 1)
        parties = {one.name: one.party() for one in subject.everyone}
        radii, logits = _radii(subject, settings)
        found: dict[str, Any] = {"domains": _domains(subject, parties)}
        if "transfer" in settings.rows:
            told("transfer", 0, 1)
            pairs = _transfer(subject, parties, mode, to, radii, told)
            found["transfer"] = {
                "mode": mode,
                "pairs": [_pair(one, dict(zip(radii, logits, strict=True))) for one in pairs],
            }
            if settings.method == "published":
                found["published"] = [
                    {"logits": unit, **asdict(published(subject.everyone, subject.head, radius, seed=config.seed[0]))}
                    for radius, unit in zip(radii, logits, strict=True)
                ]
        if "curvature" in settings.rows:
            told("curvature", 0, 1)
            found["curvature"] = _curvature(subject, parties, mode, to)
        if "attributes" in settings.rows:
            found["attributes"] = _attributes(subject, parties, mode, to, told)
        if "shift" in settings.rows:
            found["shift"] = _shift(subject, mode, to, told)
    made = {
        "name": config.name,
        "recipe": config.recipe[0].name,
        "seed": config.seed[0],
        "round": round,
        "rule": rule,
        "settings": asdict(settings),
        "head": list(subject.head.shape),
        "head_norm": float(subject.head.norm()),
        "notes": notes,
        "versions": versions(),
        "seconds": time.perf_counter() - begun,
    }
    return {"made": made, **found}


def _who(config: Config, domains: DomainSet, settings: Settings) -> tuple[Mode, tuple[str, ...], list[str]]:
    """Mode and targets of a diagnosis, and what should be said about the choice."""
    sources, targets = ([one.name for one in some] for some in (domains.sources, domains.targets))
    for name in settings.to:
        if name not in (*sources, *targets):
            raise FedhaError(
                f"--to names {name!r}, which is no domain of the run; take some of {listed([*targets, *sources])}"
            )
    notes = []
    mode = settings.mode or ("pooled" if targets or settings.to else "leave-one-out")
    if mode == "leave-one-out" and settings.mode is None:
        notes.append(
            "This run has no target: each source is held against the mean of the others, which is no unseen domain."
        )
    if mode == "pooled" and not (targets or settings.to):
        raise FedhaError("this run has no target to compare its sources with; take --mode leave-one-out, or pairs")
    if config.privacy.secure_aggregation and (mode != "pooled" or set(settings.to) & set(sources)):
        raise FedhaError(
            f"--mode {mode} reads what single clients answer, which privacy.secure_aggregation hides from everyone; "
            "take --mode pooled with a target that is no source"
        )
    if config.privacy.secure_aggregation and settings.method == "published":
        raise FedhaError("--method published reads what single clients answer, which privacy.secure_aggregation hides")
    if settings.method == "published" and len(sources) + len(targets) < 2:
        raise FedhaError("--method published compares domains with each other, and this run has one")
    if mode in ("pairs", "leave-one-out") and len(sources) < 2:
        raise FedhaError(f"--mode {mode} compares sources with each other, and this run has one; take --mode pooled")
    to = settings.to or (tuple(targets) if mode != "leave-one-out" else tuple(sources))
    if mode == "pooled" and len(sources) == 1 and set(to) & set(sources):
        raise FedhaError(f"--to names the only source, {sources[0]!r}, which leaves nothing to compare it with")
    return mode, to, notes


def _radii(subject: Subject, settings: Settings) -> tuple[list[float], list[float]]:
    """Radii in weights of the head, and in logit units."""
    unit = logit_unit(subject.sources)
    found = sorted({*(one * unit for one in settings.logits if not settings.radii), *settings.radii})
    return found, [one / unit for one in found]


def _domains(subject: Subject, parties: Mapping[str, Party]) -> list[dict[str, Any]]:
    found = []
    for place, one in enumerate(subject.everyone):
        answers = one.heads(subject.head[None])
        found.append(
            {
                "name": one.name,
                "role": "source" if place < len(subject.sources) else "target",
                "risk": float(answers.risks[0]),
                "accuracy": float(answers.accuracies[0]),
                **asdict(parties[one.name].sizes),
                **attributes.own(one),
            }
        )
    return found


def _transfer(
    subject: Subject,
    parties: Mapping[str, Party],
    mode: Mode,
    to: Sequence[str],
    radii: Sequence[float],
    told: Told,
) -> list[Transfer]:
    everyone = list(parties.values())
    seed, head = subject.config.seed[0], subject.head
    names = [one.name for one in subject.sources]
    if mode == "worst":
        known = curvature.norms(everyone, (head.shape[0], head.shape[1]), seed=seed)
        return worst_pair(everyone, head, radii, known, seed=seed)
    if mode == "pairs":
        compared = [(parties[a], parties[b]) for place, a in enumerate(names) for b in names[place + 1 :]]
    else:
        compared = [(_others(parties, names, name), parties[name]) for name in to]
    found = []
    for source, target in compared:
        found += both_ways(source, target, head, radii, everyone, seed=seed, told=told)
    return found


def _others(parties: Mapping[str, Party], sources: Sequence[str], name: str) -> Party:
    """The mean of all sources but this one."""
    others = [one for one in sources if one != name]
    return pooled([parties[one] for one in others], _mean_title(others, sources))


def _mean_title(others: Sequence[str], sources: Sequence[str]) -> str:
    return SOURCES if len(others) == len(sources) else f"the mean of {listed(others)}"


def _pair(one: Transfer, logits: Mapping[float, float]) -> dict[str, Any]:
    parts = one.parts
    return {
        "source": one.source,
        "target": one.target,
        "radius": one.radius,
        "logits": logits[one.radius],
        "measured": one.measured,
        "bound": one.bound,
        "rule": parts.rule,
        "parts": {
            "risk_gap": parts.risk_gap,
            "gradient": parts.gradient,
            "curvature": parts.curvature,
            "third_order": parts.third_order,
        },
        "bounds": parts.every,
        "published_form": parts.published,
        "excess": None if one.excess is None else {"measured": one.excess, "bound": one.excess_bound},
        "symmetric": None if one.symmetric is None else {"measured": one.symmetric, "bound": one.symmetric_bound},
        "minima": None if one.least is None else [{"value": low.value, "gap": low.gap} for low in one.least],
        "attack": {"starts": one.climb.starts, "exchanges": one.climb.exchanges, "first_order_gap": one.climb.gap},
        "accuracies": one.accuracies,
        "risks": one.risks,
    }


def _curvature(subject: Subject, parties: Mapping[str, Party], mode: Mode, to: Sequence[str]) -> list[dict[str, Any]]:
    shape = (subject.head.shape[0], subject.head.shape[1])
    seed, names = subject.config.seed[0], [one.name for one in subject.sources]
    found = []
    if not subject.config.privacy.secure_aggregation and len(parties) > 1:
        found += [
            (one, parties[one.first], parties[one.second])
            for one in curvature.norms(list(parties.values()), shape, seed=seed)
        ]
    for name in to if len(names) > 1 else ():
        mean = _others(parties, names, name)
        found.append((curvature.difference(mean, parties[name], shape, seed=seed), mean, parties[name]))
    return [_curved(one, first, second, shape) for one, first, second in found]


def _sides(subject: Subject, mode: Mode, to: Sequence[str]) -> list[tuple[Side, Side]]:
    """Who is compared: pairs of sources where there are few, and the mean of the sources with every target."""
    samples = {one.name: one for one in subject.everyone}
    sources = [one.name for one in subject.sources]
    found = []
    if not subject.config.privacy.secure_aggregation and len(sources) <= _FEW:
        found += [(Side(a, (samples[a],)), Side(b, (samples[b],))) for a, b in combinations(sources, 2)]
    for name in to:
        others = [one for one in sources if one != name]
        if others and (len(others) > 1 or name not in sources):
            title = others[0] if len(others) == 1 else _mean_title(others, sources)
            found.append((Side(title, tuple(samples[one] for one in others)), Side(name, (samples[name],))))
    return found


def _attributes(
    subject: Subject, parties: Mapping[str, Party], mode: Mode, to: Sequence[str], told: Told
) -> list[dict[str, Any]]:
    seed, shape = subject.config.seed[0], (subject.head.shape[0], subject.head.shape[1])
    rows = attributes.rows(subject.sources, shared_directions(subject.sources, seed))
    levels: attributes.Levels = {}
    spectral = {}
    found = []
    sides = _sides(subject, mode, to)
    for number, (first, second) in enumerate(sides):
        for place, row in enumerate(rows):
            told("attributes", number * len(rows) + place, len(rows) * len(sides))
            found.append(asdict(attributes.compare(first, second, row, seed, known=levels)))
        for one in (*first.samples, *second.samples):
            if one.name not in spectral:
                spectral[one.name] = attributes.spectral_halves(one, seed)
        ours = pooled([parties[one.name] for one in first.samples], first.name)
        norm = curvature.difference(ours, parties[second.name], shape, seed=seed).lower
        chances = attributes.by_chance(first, second, spectral)
        whole = attributes.Difference(
            "Hessian, spectral norm", first.name, second.name, norm, *chances, None, None, "cma, hutchinson_shared"
        )
        found.append(asdict(whole))
    return found


def _shift(subject: Subject, mode: Mode, to: Sequence[str], told: Told) -> list[dict[str, object]]:
    classes, seed = subject.domains.classes, subject.config.seed[0]
    inputs = given_inputs(subject.domains)
    found = []
    names = {one.name for one in subject.sources}
    sides = [pair for pair in _sides(subject, mode, to) if len(names) <= 2 or not {one.name for one in pair} <= names]
    for number, (first, second) in enumerate(sides):
        for place, (space, placed) in enumerate((("features", _in_features), ("inputs", inputs))):
            told("kinds of shift", 2 * number + place, 2 * len(sides))
            if placed is not None:
                mean = together(first.name, [placed(one) for one in first.samples])
                one = estimate(mean, placed(second.samples[0]), classes, space, seed)
                found += [] if one is None else [one.row()]
    return found


def _in_features(one: Sample) -> Placed:
    return Placed(one.name, one.features[:, :-1], one.labels)


def _curved(one: curvature.Curvature, first: Party, second: Party, shape: tuple[int, int]) -> dict[str, Any]:
    made = curvature.makeup(one.top)
    ratios = None
    if shape[0] * shape[1] <= _LARGEST_PENCIL:
        ours, theirs = curvature.whole(first, shape), curvature.whole(second, shape)
        ratios = [curvature.curvature_ratio(ours, theirs), curvature.curvature_ratio(theirs, ours)]
    return {
        "first": one.first,
        "second": one.second,
        "lower": one.lower,
        "upper": one.upper,
        "rule": one.rule,
        "largest": one.spectrum.high,
        "smallest": one.spectrum.low,
        "exchanges": one.exchanges,
        "ratios": ratios,
        "top": {
            "classes": made.classes,
            "features": [{"feature": place, "share": share} for place, share in made.features],
        },
    }
