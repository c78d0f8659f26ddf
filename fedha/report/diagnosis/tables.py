"""A diagnosis as tables: what was measured beside what bounds it, curvature, attributes and kinds of shift."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedha.report.formats import Cell, Column, Table

Found = Mapping[str, Any]  # the content of a diagnosis.json


def tables(found: Found) -> list[Table]:
    """Every part that the diagnosis has, in the order of reading."""
    made = [
        _transfer(found),
        _worst_heads(found),
        _published(found),
        _curvature(found),
        _attributes(found),
        _domains(found),
        _shift(found),
    ]
    return [one for one in made if one is not None]


def heading(made: Mapping[str, Any]) -> str:
    """Which run it is, at which round: ``hgp, seed 0, round 60 by oracle``."""
    by = f" by {made['rule']}" if made.get("rule") else ""
    return f"{made['recipe']}, seed {made['seed']}, round {made['round']}{by}"


def number(value: float | None) -> str | None:
    """Three significant digits; infinity as such."""
    if value is None:
        return None
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e5):
        return f"{value:.2e}"
    return f"{value:.4f}" if abs(value) < 1 else f"{value:.4g}"


def _transfer(found: Found) -> Table | None:
    pairs = found.get("transfer", {}).get("pairs", [])
    if not pairs:
        return None
    heads = ("from", "to", "logit units", "measured, at least", "bound", "by", "risk gap", "gradient", "curvature")
    more = ("third order", "published form alone", "excess, at least", "excess bound")
    columns = tuple(Column(one, number=one not in ("from", "to", "by")) for one in (*heads, *more))
    return Table(
        "Transfer measure: how much the risk of one domain can exceed another's at a head near the learned one",
        columns,
        tuple(_transfer_row(one) for one in pairs),
        (
            "In nats. The bound holds for every head of the ball and is the sum of its four parts; an attack finds at "
            "least what is measured. The published form, half the squared radius times the spectral norm, is no bound "
            "away from a minimum of both domains.",
        ),
    )


def _transfer_row(one: Mapping[str, Any]) -> tuple[Cell, ...]:
    parts, excess = one["parts"], one["excess"] or {}
    shown = (parts["risk_gap"], parts["gradient"], parts["curvature"], parts["third_order"], one["published_form"])
    return (
        *(one["source"], one["target"], f"{one['logits']:.3g}", number(one["measured"]), number(one["bound"])),
        *(one["rule"], *map(number, shown), number(excess.get("measured")), number(excess.get("bound"))),
    )


def _worst_heads(found: Found) -> Table | None:
    pairs = found.get("transfer", {}).get("pairs", [])
    names = [one["name"] for one in found["domains"]]
    if not pairs:
        return None
    columns = (
        Column("from"),
        Column("to"),
        Column("logit units", number=True),
        *(Column(n, number=True) for n in names),
    )
    rows = tuple(
        (
            one["source"],
            one["target"],
            f"{one['logits']:.3g}",
            *(_change(one["accuracies"].get(name)) for name in names),
        )
        for one in pairs
    )
    return Table("Accuracy of every domain, %, at the learned head and at the worst one", columns, rows)


def _published(found: Found) -> Table | None:
    rows = found.get("published", [])
    if not rows:
        return None
    names = [one["name"] for one in found["domains"]]
    heads = ("logit units", "radius", "distance reached", "largest risk minus smallest", "largest", "smallest")
    columns = tuple(Column(one, number=one not in ("largest", "smallest")) for one in heads)
    body = tuple(
        (
            *(f"{one['logits']:.3g}", number(one["radius"]), number(one["distance"]), number(one["gap"])),
            *(one["largest"], one["smallest"], *(_change(one["accuracies"].get(name)) for name in names)),
        )
        for one in rows
    )
    return Table(
        "The published attack: Adam on minibatches of 80 % of each domain, the rest looked at",
        (*columns, *(Column(f"{name}, %", number=True) for name in names)),
        body,
        ("Ten epochs at a fixed rate, the epoch of the largest gap; the ball's edge may not be reached.",),
    )


def _change(pair: Sequence[float] | None) -> str | None:
    return None if pair is None else f"{100 * pair[0]:.1f} → {100 * pair[1]:.1f}"


def _curvature(found: Found) -> Table | None:
    pairs = found.get("curvature", [])
    if not pairs:
        return None
    heads = ("first", "second", "norm, at least", "at most", "by", "largest eigenvalue", "smallest", "ratio to second")
    columns = tuple(
        Column(one, number=one not in ("first", "second", "by", "classes", "features"))
        for one in (*heads, "ratio to first", "classes", "features")
    )
    return Table(
        "Curvature: the spectral norm of the difference of two domains' head Hessians, second minus first",
        columns,
        tuple(_curvature_row(one, found["made"]["head"][1] - 1) for one in pairs),
        (
            "Classes and features: what the direction of the largest difference is made of, in % of its squared "
            "length. Ratio: how many nats one domain loses, to second order, where the other loses one.",
        ),
    )


def _curvature_row(one: Mapping[str, Any], bias: int) -> tuple[Cell, ...]:
    ratios = one["ratios"] or (None, None)
    top = one["top"]
    order = sorted(range(len(top["classes"])), key=lambda place: -top["classes"][place])[:3]
    classes = ", ".join(f"{place} {100 * top['classes'][place]:.0f}" for place in order)
    features = ", ".join(
        f"{'bias' if part['feature'] == bias else part['feature']} {100 * part['share']:.0f}"
        for part in top["features"][:3]
    )
    spectrum = (number(one["largest"]), number(one["smallest"]), number(ratios[0]), number(ratios[1]))
    ends = (number(one["lower"]), number(one["upper"]), one["rule"])
    return (one["first"], one["second"], *ends, *spectrum, classes, features)


def _domains(found: Found) -> Table | None:
    heads = ("examples", "accuracy %", "risk", "rms |z|", "largest |z|", "largest eigenvalue of H")
    columns = (Column("domain"), Column("role"), *(Column(one, number=True) for one in heads))
    rows = tuple(
        (
            *(one["name"], one["role"], f"{one['examples']:,}", f"{100 * one['accuracy']:.1f}", number(one["risk"])),
            *(number(one["mean_square"] ** 0.5), number(one["largest"]), number(one["top_hessian"])),
        )
        for one in found["domains"]
    )
    return Table("The domains at the learned head: sources' training examples, targets whole", columns, rows)


def _attributes(found: Found) -> Table | None:
    rows = found.get("attributes", [])
    if not rows:
        return None
    names = list(dict.fromkeys((one["first"], one["second"]) for one in rows))
    columns = (
        *(Column("attribute"), Column("first"), Column("second"), Column("difference", number=True)),
        *(Column("by chance", number=True), Column("95 % of chance", number=True), Column("beyond chance")),
        *(Column("label part", number=True), Column("conditional part", number=True), Column("aligned by")),
    )
    body = tuple(
        (
            *(one["attribute"], one["first"], one["second"], number(one["value"]), number(one["chance"])),
            *(number(one["chance_95"]), _beyond(one), number(one["label_part"]), number(one["conditional_part"])),
            one["aligned_by"],
        )
        for pair in names
        for one in rows
        if (one["first"], one["second"]) == pair
    )
    return Table("Attributes: how far domains differ in what a recipe may align", columns, body, (_CHANCE,))


_CHANCE = (
    "By chance: the same number between random halves of one domain, brought to the two domains' numbers of examples. "
    "Label part: what differing shares of the classes explain; conditional part: the rest. As vectors the two add up "
    "to the difference, their lengths need not."
)


def _beyond(one: Mapping[str, Any]) -> str | None:
    return None if one["chance_95"] is None else "yes" if one["value"] > one["chance_95"] else "no"


_KINDS = (
    "Diversity: what only one side has; correlation: labels that differ at what both have; rest: other shares of what "
    "both have. By discriminators on held-out examples, which see less than there is rather than more; random "
    "halves of one domain give at most 0.01 of the first two, or 0.02 where no threshold gives less."
)


def _shift(found: Found) -> Table | None:
    rows = found.get("shift", [])
    if not rows:
        return None
    heads = (
        "diversity",
        "correlation",
        "correlation+",
        "label (TV)",
        "rest",
        "joint Hellinger²",
        "total variation",
        "AUC",
    )
    keys = ("diversity", "correlation", "correlation_plus", "label", "rest", "hellinger", "total_variation", "auc")
    columns = (Column("first"), Column("second"), Column("space"), *(Column(one, number=True) for one in heads))
    body = tuple((one["first"], one["second"], one["space"], *(number(one[key]) for key in keys)) for one in rows)
    return Table("Kinds of shift, by discriminators", columns, body, (_KINDS,))
