"""A diagnosis of one finished run: what was asked for, as plain values that a file can hold."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import chain, combinations
from typing import Any

from fedha.config import Config
from fedha.data.domain import DomainSet
from fedha.diagnosis import attributes, curvature
from fedha.diagnosis.attributes import Side
from fedha.diagnosis.hessians import Hessians
from fedha.diagnosis.party import Party, asked, beside, done, pooled
from fedha.diagnosis.published import published
from fedha.diagnosis.sample import Sample
from fedha.diagnosis.scene import Choice, Scene, choose
from fedha.diagnosis.settings import Settings
from fedha.diagnosis.shift import Placed, estimate, given_inputs, together
from fedha.diagnosis.subject import Subject, Told, looked_at
from fedha.diagnosis.transfer import Transfer, measuring, worst_pair
from fedha.diagnosis.weighted import shared_directions
from fedha.errors import FedhaError, listed
from fedha.models.split import SplitModel
from fedha.runs.versions import versions

SOURCES = "the sources' mean"
_FEW = 5  # sources of which every pair is compared in every attribute
_HEADS, _AT_ONCE = 40, 2**23  # heads of a pair and radius in an exchange, about, and numbers in a message


def diagnose(
    model: SplitModel, config: Config, domains: DomainSet, settings: Settings, told: Told, *, round: int, rule: str = ""
) -> dict[str, Any]:
    """Measure a learned head on its domains, in this process.

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
    names, others = ([one.name for one in some] for some in (domains.sources, domains.targets))
    choice = choose(config, names, others, settings)
    with looked_at(model, config, domains, told) as subject:
        told("size of the features", 0, 1)
        sources, targets = (tuple(one.party() for one in some) for some in (subject.sources, subject.targets))
        return measured(
            Scene(config, subject.head, sources, targets, subject), choice, settings, told, round=round, rule=rule
        )


def measured(
    scene: Scene, choice: Choice, settings: Settings, told: Told, *, round: int, rule: str = ""
) -> dict[str, Any]:
    """As `diagnose`, of domains that are asked, wherever they are.

    Args:
        scene: Who.
        choice: As `choose` makes it.
        settings: What is asked for.
        told: Told of progress.
        round: After which the model was recorded.
        rule: That took this round, or "".

    Raises:
        FedhaError: What is asked for needs features, and they are not here.
    """
    begun, config = time.perf_counter(), scene.config
    radii, logits = _radii(scene.sources, settings)
    found: dict[str, Any] = {"domains": _domains(scene, own="attributes" in settings.rows)}
    told("curvature", 0, 1)
    hessians = None
    if set(settings.rows) != {"shift"}:
        hessians = curvature.known(scene.everyone, scene.shape, settings.products, seed=config.seed[0])
    if "transfer" in settings.rows:
        told("transfer", 0, 1)
        pairs = _transfer(scene, choice, radii, hessians, told)
        found["transfer"] = {
            "mode": choice.mode,
            "pairs": [_pair(one, dict(zip(radii, logits, strict=True))) for one in pairs],
        }
        if settings.method == "published":
            everyone = _features(scene, "--method published").everyone
            found["published"] = [
                {"logits": unit, **asdict(published(everyone, scene.head, radius, seed=config.seed[0]))}
                for radius, unit in zip(radii, logits, strict=True)
            ]
    if "curvature" in settings.rows:
        found["curvature"] = _curvature(scene, choice, hessians)
    if "attributes" in settings.rows:
        found["attributes"] = _attributes(_features(scene, "--rows attributes"), scene, choice, hessians, told)
    if "shift" in settings.rows:
        found["shift"] = _shift(_features(scene, "--rows shift"), choice, told)
    made = {
        "name": config.name,
        "recipe": config.recipe[0].name,
        "seed": config.seed[0],
        "round": round,
        "rule": rule,
        "settings": asdict(settings),
        "head": list(scene.head.shape),
        "head_norm": float(scene.head.norm()),
        "notes": list(choice.notes),
        "versions": versions(),
        "seconds": time.perf_counter() - begun,
    }
    return {"made": made, **found}


def _features(scene: Scene, what: str) -> Subject:
    if scene.subject is None:
        raise FedhaError(f"{what} reads features, which leave no site; take --rows transfer,curvature")
    return scene.subject


def _radii(sources: Sequence[Party], settings: Settings) -> tuple[list[float], list[float]]:
    """Radii in weights of the head, and in logit units."""
    squares = sum(one.sizes.mean_square * one.sizes.examples for one in sources)
    unit = (sum(one.sizes.examples for one in sources) / squares) ** 0.5
    found = sorted({*(one * unit for one in settings.logits if not settings.radii), *settings.radii})
    return found, [one / unit for one in found]


def _domains(scene: Scene, *, own: bool) -> list[dict[str, Any]]:
    answers = asked([(one, "heads", scene.head[None]) for one in scene.everyone])
    samples = [None] * len(answers) if scene.subject is None or not own else scene.subject.everyone
    return [
        {
            "name": one.name,
            "role": "source" if place < len(scene.sources) else "target",
            "risk": float(told.risks[0]),
            "accuracy": float(told.accuracies[0]),
            **asdict(one.sizes),
            **({} if sample is None else attributes.own(sample)),
        }
        for place, (one, told, sample) in enumerate(zip(scene.everyone, answers, samples, strict=True))
    ]


def _transfer(
    scene: Scene, choice: Choice, radii: Sequence[float], hessians: Hessians | None, told: Told
) -> list[Transfer]:
    seed, head, everyone = scene.config.seed[0], scene.head, scene.everyone
    if choice.mode == "worst":
        pairs = curvature.norms(everyone, scene.shape, seed=seed, hessians=hessians)
        return worst_pair(everyone, head, radii, pairs, seed=seed, hessians=hessians)
    if choice.mode == "pairs":
        compared = list(combinations(scene.sources, 2))
    else:
        parties = {one.name: one for one in everyone}
        compared = [(_others(parties, scene.names, name), parties[name]) for name in choice.to]
    works = []
    for source, target in compared:
        known = curvature.difference(source, target, scene.shape, seed=seed, hessians=hessians)
        works.append(measuring(source, target, head, radii, everyone, known, hessians, seed=seed, told=told))
    at_once = 1 if everyone[0].line is None else max(1, _AT_ONCE // (_HEADS * len(radii) * head.numel()))
    found: list[Transfer] = []
    for start in range(0, len(works), at_once):
        found += chain.from_iterable(done(beside(*works[start : start + at_once])))
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


def _curvature(scene: Scene, choice: Choice, hessians: Hessians | None) -> list[dict[str, Any]]:
    shape, seed, names = scene.shape, scene.config.seed[0], scene.names
    parties = {one.name: one for one in scene.everyone}
    found = []
    if not scene.config.privacy.secure_aggregation and len(parties) > 1:
        found += [
            (one, parties[one.first], parties[one.second])
            for one in curvature.norms(scene.everyone, shape, seed=seed, hessians=hessians)
        ]
    for name in choice.to if len(names) > 1 else ():
        mean = _others(parties, names, name)
        one = curvature.difference(mean, parties[name], shape, seed=seed, hessians=hessians)
        found.append((one, mean, parties[name]))
    rows = [_curved(one, first, second, hessians) for one, first, second in found]
    if hessians is None:
        for row, (_, first, second) in zip(rows, found, strict=True):
            if row["first"] not in parties:  # a mean: the pairs of single domains would be many
                row["ratios"] = [
                    curvature.curvature_ratio_at_least(one, other, shape, seed=seed)
                    for one, other in ((first, second), (second, first))
                ]
    return rows


def _sides(subject: Subject, choice: Choice) -> list[tuple[Side, Side]]:
    """Who is compared: pairs of sources where there are few, and the mean of the sources with every target."""
    samples = {one.name: one for one in subject.everyone}
    sources = [one.name for one in subject.sources]
    found = []
    if not subject.config.privacy.secure_aggregation and len(sources) <= _FEW:
        found += [(Side(a, (samples[a],)), Side(b, (samples[b],))) for a, b in combinations(sources, 2)]
    for name in choice.to:
        others = [one for one in sources if one != name]
        if others and (len(others) > 1 or name not in sources):
            title = others[0] if len(others) == 1 else _mean_title(others, sources)
            found.append((Side(title, tuple(samples[one] for one in others)), Side(name, (samples[name],))))
    return found


def _attributes(
    subject: Subject, scene: Scene, choice: Choice, hessians: Hessians | None, told: Told
) -> list[dict[str, Any]]:
    seed, parties = subject.config.seed[0], {one.name: one for one in scene.everyone}
    rows = attributes.rows(subject.sources, shared_directions(subject.sources, seed))
    levels: attributes.Levels = {}
    spectral = {}
    found = []
    sides = _sides(subject, choice)
    for number, (first, second) in enumerate(sides):
        for place, row in enumerate(rows):
            told("attributes", number * len(rows) + place, len(rows) * len(sides))
            found.append(asdict(attributes.compare(first, second, row, seed, known=levels)))
        for one in (*first.samples, *second.samples):
            if one.name not in spectral:
                spectral[one.name] = attributes.spectral_halves(one, seed)
        ours = pooled([parties[one.name] for one in first.samples], first.name)
        norm = curvature.difference(ours, parties[second.name], scene.shape, seed=seed, hessians=hessians).lower
        chances = attributes.by_chance(first, second, spectral)
        parts = attributes.spectral_parts(first, second, seed)
        whole = attributes.Difference(
            "Hessian, spectral norm", first.name, second.name, norm, *chances, *parts, "cma, hutchinson_shared"
        )
        found.append(asdict(whole))
    return found


def _shift(subject: Subject, choice: Choice, told: Told) -> list[dict[str, object]]:
    classes, seed = subject.domains.classes, subject.config.seed[0]
    inputs = given_inputs(subject.domains)
    found = []
    names = {one.name for one in subject.sources}
    sides = [pair for pair in _sides(subject, choice) if len(names) <= 2 or not {one.name for one in pair} <= names]
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


def _curved(one: curvature.Curvature, first: Party, second: Party, hessians: Hessians | None) -> dict[str, Any]:
    made = curvature.makeup(one.top)
    ratios = None
    if hessians is not None and hessians.spanned is None:
        ours, theirs = hessians.of(first), hessians.of(second)
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
