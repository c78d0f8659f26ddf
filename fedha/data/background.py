"""Digits on grey backgrounds whose level is drawn from another interval in every domain: how far domains are apart is
known exactly.

A level b is an integer, uniform on ``length`` levels from ``lowest + e * shift`` on in domain e, whatever the digit;
the image is ``max(image, b)``. With ``tilts`` the upper half of its interval has the probability (1 + t) / 2 for the
digits 5 to 9 and (1 - t) / 2 for the digits 0 to 4: then the level tells of the label, and no new value appears.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedha.data import digits
from fedha.data.about import about
from fedha.data.domain import DomainSet, Examples, split
from fedha.data.sides import Cut
from fedha.data.wanted import check_unseen
from fedha.errors import FedhaError
from fedha.randomness import generator

LEVELS = 256
Tilt = Annotated[float, Field(ge=-1, le=1)]


@dataclass(frozen=True)
class Background:
    """The law of one domain's background.

    Attributes:
        lowest: Level.
        length: How many levels there are, even.
        tilt: How much the upper half of them prefers the digits 5 to 9, -1 to 1.
    """

    lowest: int
    length: int
    tilt: float = 0.0

    def given(self, upper: bool) -> Tensor:
        """The probability of each level, [256], for the digits 5 to 9, or for 0 to 4."""
        sign = self.tilt if upper else -self.tilt
        half = self.length // 2
        law = torch.zeros(LEVELS, dtype=torch.float64)
        law[self.lowest : self.lowest + half] = (1 - sign) / self.length
        law[self.lowest + half : self.lowest + self.length] = (1 + sign) / self.length
        return law


@dataclass(frozen=True)
class Coordinates:
    """Where a shift lies between two kinds.

    Attributes:
        diversity: Mass of levels that one of the two laws does not have, 0 to 1.
        correlation: How far the label's law given the level differs where both have it, 0 to 1.
    """

    diversity: float
    correlation: float


@about(
    "1,797 real digits of scikit-learn on grey backgrounds, with known coordinates of the shift",
    needs="",
    domains="background0, background1, …: data.domains of them",
    classes=10,
)
def digits_background(
    cut: Cut,
    target: str | list[str] | None = None,
    sources: list[str] | None = None,
    domains: Annotated[int, Field(ge=2)] = 4,
    length: Annotated[int, Field(ge=2, le=LEVELS)] = 64,
    shift: Annotated[int, Field(ge=0, le=LEVELS)] = 32,
    lowest: Annotated[int, Field(ge=0, lt=LEVELS)] = 0,
    tilts: list[Tilt] | None = None,
) -> DomainSet:
    """The 1,797 images of 8x8 in equal disjoint parts, one a domain, each with backgrounds of its law.

    Args:
        cut: Its seed decides which images a domain gets, and the levels; decides what is held out.
        target: The unseen domains; required.
        sources: Those that are trained on; None: all others.
        domains: How many.
        length: Levels of each domain's interval, even.
        shift: Levels between the beginnings of two that follow each other.
        lowest: Where the first one begins.
        tilts: Of each domain; None: of none.

    Returns:
        Inputs [n, 1, 8, 8] of bytes, ten classes; the description has the coordinates of the shift from the sources
        together to each target.

    Raises:
        FedhaError: No target, an odd length, levels beyond 255, tilts of another number.

    Source:
        E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository (1998),
        its test part. Ye et al., "OoD-Bench" (CVPR 2022), for the two coordinates.
    """
    names = [f"background{place}" for place in range(domains)]
    laws = _laws(domains, length, shift, lowest, tilts)
    unseen = check_unseen(names, target)
    images, labels = digits.as_bytes()
    order = torch.randperm(len(labels), generator=generator(cut.seed, "data", "shuffle"))
    made = []
    for name, law, part in zip(names, laws, order.tensor_split(domains), strict=True):
        levels = drawn(law, labels[part] >= 5, generator(cut.seed, "data", "background", name))
        pixels = images[part].maximum(levels.to(torch.uint8)[:, None, None])
        made.append(split(name, Examples(pixels[:, None], labels[part]), cut))
    from_ones = [laws[names.index(one)] for one in sources or names if one in names and one not in unseen]
    told = [f"{name} {_told(from_ones, laws[names.index(name)], _upper(labels))}" for name in unseen if from_ones]
    description = (
        f"digits of scikit-learn on grey backgrounds of {length} levels, {shift} apart; from the sources to "
        f"{'; '.join(told)}"
    )
    return DomainSet(tuple(made), (), 10, description)


def drawn(law: Background, upper: Tensor, draws: torch.Generator) -> Tensor:
    """A level for each example, as evenly as the law allows: one in each of n equal steps of its distribution.

    Args:
        law: Of its domain.
        upper: Whether its digit is 5 to 9, [n].
        draws: Where in its step each one is, and whose step is whose.

    Returns:
        [n], int64.
    """
    levels = torch.zeros(len(upper), dtype=torch.int64)
    for kind in (False, True):
        places = (upper == kind).nonzero()[:, 0]
        steps = torch.randperm(len(places), generator=draws).double()
        heights = (steps + torch.rand(len(places), generator=draws, dtype=torch.float64)) / max(1, len(places))
        levels[places] = torch.searchsorted(law.given(kind).cumsum(0), heights, right=True).clamp(max=LEVELS - 1)
    return levels


def coordinates(one: Sequence[Background], other: Sequence[Background], upper: float = 0.5) -> Coordinates:
    """The two coordinates of the shift between two laws of level and label, computed exactly.

    diversity = ½ Σ |p(b) - q(b)| over the levels that one of them alone has, and correlation = ½ Σ √(p(b) q(b)) Σ_y
    |p(y|b) - q(y|b)| over those that both have. With equal lengths and no tilt they are min(1, shift / length) and 0;
    with no shift and half of the labels in each group, 0 and half the difference of the tilts.

    Args:
        one: The law of one side; several are mixed alike.
        other: Of the other side.
        upper: The share of the digits 5 to 9.
    """
    first, second = (_joint(laws, upper) for laws in (one, other))
    levels = first.sum(0), second.sum(0)
    both = (levels[0] > 0) & (levels[1] > 0)
    apart = (first / levels[0] - second / levels[1])[:, both].abs().sum(0)
    diversity = 0.5 * (levels[0] - levels[1])[~both].abs().sum()
    return Coordinates(float(diversity), float(0.5 * ((levels[0] * levels[1]).sqrt()[both] * apart).sum()))


def _joint(laws: Sequence[Background], upper: float) -> Tensor:
    """The probability of each group of digits with each level, [2, 256], of several laws mixed alike."""
    each = [torch.stack([(1 - upper) * law.given(False), upper * law.given(True)]) for law in laws]
    return torch.stack(each).mean(0)


def _laws(domains: int, length: int, shift: int, lowest: int, tilts: Sequence[float] | None) -> list[Background]:
    if length % 2:
        raise FedhaError(f"data.length is {length}, whose halves differ; give an even number")
    if lowest + (domains - 1) * shift + length > LEVELS:
        raise FedhaError(
            f"data.lowest {lowest}, {domains} domains {shift} apart and data.length {length} go beyond the level "
            f"{LEVELS - 1}; lower data.shift or data.length"
        )
    if tilts is not None and len(tilts) != domains:
        raise FedhaError(f"data.tilts has {len(tilts)} numbers for {domains} domains; give one a domain")
    return [Background(lowest + place * shift, length, tilts[place] if tilts else 0.0) for place in range(domains)]


def _upper(labels: Tensor) -> float:
    return float((labels >= 5).double().mean())


def _told(sources: Sequence[Background], target: Background, upper: float) -> str:
    found = coordinates(sources, [target], upper)
    correlation = 0.0 if found.correlation < 1e-12 else found.correlation  # what rounding leaves
    return f"diversity {found.diversity:.4g}, correlation {correlation:.4g}"
