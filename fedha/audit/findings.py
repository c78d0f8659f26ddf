"""What an audit found, as values; JSON and back."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedha.atomic import finite
from fedha.audit.scores import Interval
from fedha.errors import FedhaError, brief

_FORM = 1

Nested = Sequence[Any]  # nested lists of numbers: an image


@dataclass(frozen=True)
class Finding:
    """One attack on one release, or on one client's share of the final model.

    Attributes:
        attack: A key of `ATTACKS`, which says what value and baseline measure.
        round: Of the release; None for the final model.
        client: Its id; None for the aggregate.
        value: How well the attack did; None where the truth is not known.
        baseline: What a guess gets, measured alike; None where there is none.
        interval: 95 % bootstrap interval of the value; None where it has no sampling to speak of.
        examples: n, behind the release.
        detail: Further numbers, by name: estimates, rates.
    """

    attack: str
    round: int | None
    client: int | None
    value: float | None
    baseline: float | None
    interval: Interval | None
    examples: int
    detail: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class NotRun:
    """An attack that could not run, and why.

    Attributes:
        attack: A key of `ATTACKS`.
        round: Of the release; None for the final model.
        client: Its id; None for the aggregate.
        reason: A sentence without its stop.
    """

    attack: str
    round: int | None
    client: int | None
    reason: str


@dataclass(frozen=True)
class Picture:
    """An image that was recovered, beside what it should be.

    Attributes:
        attack: A key of `ATTACKS`.
        round: Of the release.
        client: Its id; None for the aggregate.
        original: [channels, height, width]; None where it is not known.
        recovered: Of that shape.
        psnr: Decibels; None without the original.
        ssim: As psnr.
    """

    attack: str
    round: int
    client: int | None
    original: Nested | None
    recovered: Nested
    psnr: float | None
    ssim: float | None


@dataclass(frozen=True)
class Curve:
    """A ROC curve.

    Attributes:
        attack: A key of `ATTACKS`.
        round: Of the release; None for the final model.
        client: Its id; None for the aggregate.
        false_positives: Rates, ascending from 0 to 1.
        true_positives: Rates at the same thresholds.
        others: How many non-members the rates are shares of.
    """

    attack: str
    round: int | None
    client: int | None
    false_positives: Sequence[float]
    true_positives: Sequence[float]
    others: int


@dataclass(frozen=True)
class Findings:
    """Everything an audit has to say.

    Attributes:
        found: In the order of rounds, clients, attacks.
        not_run: The attacks that could not run.
        pictures: Recovered images.
        curves: ROC curves of memberships, of the last release of each client and of the final model.
        value_range: Lowest and highest value of a pixel.
    """

    found: tuple[Finding, ...]
    not_run: tuple[NotRun, ...]
    pictures: tuple[Picture, ...]
    curves: tuple[Curve, ...]
    value_range: tuple[float, float] = (0.0, 1.0)


def to_content(findings: Findings) -> dict[str, Any]:
    """As mappings, lists, numbers and texts; numbers that are not finite become None."""
    content: dict[str, Any] = finite({"form": _FORM, **dataclasses.asdict(findings)})
    return content


def from_content(content: Mapping[str, Any]) -> Findings:
    """Read what `to_content` made.

    Raises:
        FedhaError: It is something else, or of another version.
    """
    try:
        if content["form"] != _FORM:
            raise FedhaError(f"the audit has form {content['form']}, this version reads {_FORM}; audit again")
        low, high = content["value_range"]
        return Findings(
            tuple(Finding(**{**one, "interval": _pair(one["interval"])}) for one in content["found"]),
            tuple(NotRun(**one) for one in content["not_run"]),
            tuple(Picture(**one) for one in content["pictures"]),
            tuple(Curve(**one) for one in content["curves"]),
            (low, high),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FedhaError(f"this is no audit of fedha ({brief(error)}); make it again with fedha audit") from error


def together(several: Sequence[Findings]) -> Findings:
    """The findings of several audits as those of one, such as a recipe's with every seed.

    Args:
        several: One or more.
    """
    return Findings(
        tuple(one for each in several for one in each.found),
        tuple(one for each in several for one in each.not_run),
        tuple(one for each in several for one in each.pictures),
        tuple(one for each in several for one in each.curves),
        several[0].value_range,
    )


def _pair(interval: Sequence[float] | None) -> Interval | None:
    return None if interval is None else (interval[0], interval[1])
