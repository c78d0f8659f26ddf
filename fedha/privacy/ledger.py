"""What has been released so far: a list of Gaussian releases, from which epsilon is computed. A value, kept as JSON.

A site keeps one ledger for its training examples; its held-out examples, which are others, have one of their own if
anything of them is sent. A server that protects clients as a whole keeps one for them. Nothing here computes epsilon:
that is `fedha.privacy.accounting`, which needs Flower and dp-accounting.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from fedha.errors import FedhaError, brief
from fedha.privacy.sampling import Sampling, releases
from fedha.schema import shown

Unit = Literal["example", "client"]
Sampled = Literal["whole", "poisson", "without_replacement", "shuffled", "unamplified"]

_SCHEMA = 1


@dataclass(frozen=True)
class Release:
    """One Gaussian release of a clipped sum.

    Attributes:
        noise_multiplier: The noise's deviation over the clipping norm.
        sampling: Who is in the sum: *whole*, everybody; *poisson*, each by its own coin; *without_replacement*, a fixed
            number, every set of them as likely; *shuffled*, one pass cut into batches (it counts once); *unamplified*,
            chosen in any other way. The last two are accounted as if everybody were in the sum.
        sample: How many are in the sum, on average under poisson.
    """

    noise_multiplier: float
    sampling: Sampled
    sample: int

    def __post_init__(self) -> None:
        if not 0 < self.noise_multiplier < math.inf:
            raise FedhaError(
                f"a release with noise multiplier {self.noise_multiplier:g} has no epsilon; give a positive number, "
                "or switch differential privacy off"
            )
        if self.sampling not in get_args(Sampled):
            raise FedhaError(
                f"sampling {shown(self.sampling)} cannot be accounted for; name one of {', '.join(get_args(Sampled))}"
            )


@dataclass(frozen=True)
class Ledger:
    """All releases of one population.

    Attributes:
        unit: What is protected: one example of a site, or one client of a federation.
        population: How many there are; public.
        entries: Releases and how often each was made.
    """

    unit: Unit
    population: int
    entries: tuple[tuple[Release, int], ...] = ()

    def __post_init__(self) -> None:
        if self.population < 1:
            raise FedhaError(f"there are {self.population} {self.unit}s to protect; a ledger needs one or more")
        for release, count in self.entries:
            if count < 1:
                raise FedhaError(f"a release was entered {count} times; enter it once or more")
            _check_sample(release, self.population)
        kinds = {release.sampling for release, _ in self.entries}
        if {"poisson", "without_replacement"} <= kinds:
            raise FedhaError(
                "poisson sampling is accounted for neighbours that add or remove one, sampling without replacement for "
                "neighbours that replace one; one ledger cannot hold both: take one of them for every exchange"
            )

    def add(self, made: Iterable[tuple[Release, int]]) -> "Ledger":
        """The ledger with these releases entered too; equal ones are counted together."""
        counts = dict(self.entries)
        for release, count in made:
            counts[release] = counts.get(release, 0) + count
        return Ledger(self.unit, self.population, tuple(counts.items()))

    @property
    def relation(self) -> str:
        """Which data sets are neighbours, in words for a report: epsilon means nothing without it."""
        kinds = {release.sampling for release, _ in self.entries}
        if "without_replacement" in kinds:
            return f"replace one {self.unit} by another"
        if kinds & {"shuffled", "unamplified"}:  # batches and cohorts stay as they are only if a place is kept
            return f"replace one {self.unit} by one that adds nothing"
        return f"add or remove one {self.unit}"

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        entries = [
            {"noise_multiplier": one.noise_multiplier, "sampling": one.sampling, "sample": one.sample, "count": count}
            for one, count in self.entries
        ]
        return {"schema": _SCHEMA, "unit": self.unit, "population": self.population, "entries": entries}


def restore(state: Mapping[str, Any]) -> Ledger:
    """The ledger of a `Ledger.state`.

    Raises:
        FedhaError: It is not one, or of another version; says what is wrong.
    """
    if not isinstance(state, Mapping):
        raise FedhaError(f"the privacy ledger is {type(state).__name__}, no mapping; restore it from a copy")
    if state.get("schema") != _SCHEMA:
        raise FedhaError(
            f"the privacy ledger has version {shown(state.get('schema'))}, this is {_SCHEMA}; resume with the same "
            "fedha"
        )
    try:
        if state["unit"] not in get_args(Unit):
            raise ValueError(f"unit {shown(state['unit'])}")
        entries = tuple(
            (Release(float(one["noise_multiplier"]), one["sampling"], int(one["sample"])), int(one["count"]))
            for one in state["entries"]
        )
        return Ledger(state["unit"], int(state["population"]), entries)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise FedhaError(
            f"the privacy ledger cannot be read ({brief(error)}); restore the checkpoint: without it nothing is known "
            "of what was spent"
        ) from error


def round_releases(
    exchanges: int, statistics_noise: float, update: Sampling, steps: int, update_noise: float
) -> tuple[tuple[Release, int], ...]:
    """What one round of fedha releases of a site's training examples.

    Args:
        exchanges: How many times statistics of the whole domain are sent: `len(Recipe.measurements())`.
        statistics_noise: Noise multiplier of each exchange.
        update: How training draws its batches.
        steps: Gradients in the update: 1 in synchronous mode.
        update_noise: Noise multiplier of each.
    """
    measured = [(Release(statistics_noise, "whole", update.examples), exchanges)] if exchanges else []
    trained = (Release(update_noise, update.method, update.batch), releases(update, steps))
    return (*measured, trained)


def _check_sample(release: Release, population: int) -> None:
    if not 1 <= release.sample <= population:
        raise FedhaError(
            f"a sample of {release.sample} of {population} cannot be accounted for; give 1 to {population}"
        )
    if release.sampling == "whole" and release.sample != population:
        raise FedhaError(
            f"a sum over {release.sample} of {population} is not over the whole; say how they were sampled"
        )
