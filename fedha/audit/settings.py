"""What an audit is asked to do, and how people write it."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from fedha.audit.attacks import ATTACKS
from fedha.errors import FedhaError

GROUPS = {
    "labels": "labels_",
    "features": "feature_",
    "inputs": "input_",
    "tracing": "tracing_",
    "membership": "membership_",
}
"""Attacks by what they are after: the name people give, and what its attacks begin with."""

_USUAL_ROUNDS = 7  # without a wish: the first, the last, and some between


@dataclass(frozen=True)
class Settings:
    """An audit's scope and budget.

    Attributes:
        rounds: Which rounds' releases are attacked, as `chosen_rounds` reads it; "" for the usual ones.
        attacks: Keys of `ATTACKS`.
        shadows: Shadow models of the likelihood ratio, an even number of 4 or more; 0: none.
        small: The first round is also audited with clients of so many examples each.
        noise: Gaussian noise that is added to every captured tensor, in units of its root mean square: a check of the
            attacks, which must then be at chance.
    """

    rounds: str = ""
    attacks: tuple[str, ...] = tuple(ATTACKS)
    shadows: int = 8
    small: tuple[int, ...] = (1, 4)
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.shadows and (self.shadows < 4 or self.shadows % 2):
            raise FedhaError(
                f"{self.shadows} shadow models are asked for; take an even number of 4 or more, so that each example "
                "is in half of them, or 0 for none"
            )
        if any(count < 1 for count in self.small):
            raise FedhaError(f"clients of {min(self.small)} examples were asked for; give numbers of 1 or more")
        if not 0 <= self.noise < float("inf"):
            raise FedhaError(f"noise of {self.noise:g} was asked for; give 0 or a positive number")


def chosen_rounds(wish: str, rounds: int) -> tuple[int, ...]:
    """The rounds that a wish names.

    Args:
        wish: Numbers and ranges with commas between, such as ``1,10-20,last``; ``all``; "" for the usual ones: about
            equally far apart on a logarithmic scale, for most is given away early.
        rounds: Of the run.

    Raises:
        FedhaError: It names a round that the run does not have, or cannot be read.
    """
    if not wish:
        steps = [rounds ** (place / (_USUAL_ROUNDS - 1)) for place in range(_USUAL_ROUNDS)]
        return tuple(sorted({round(step) for step in steps}))
    if wish.strip() == "all":
        return tuple(range(1, rounds + 1))
    found: set[int] = set()
    for part in wish.split(","):
        ends = re.fullmatch(r"(\d+|last)(?:-(\d+|last))?", part.strip())
        if ends is None:
            raise FedhaError(f"rounds {wish!r} cannot be read at {part!r}; write them as in 1,10-20,last, or all")
        first, last = (rounds if end == "last" else int(end) for end in (ends[1], ends[2] or ends[1]))
        if not 1 <= first <= last <= rounds:
            raise FedhaError(f"rounds {wish!r} asks for {part.strip()}, but the run has the rounds 1 to {rounds}")
        found.update(range(first, last + 1))
    return tuple(sorted(found))


def chosen_attacks(names: Sequence[str]) -> tuple[str, ...]:
    """The attacks that names ask for, in the table's order; none for all.

    Args:
        names: Of `GROUPS`, or keys of `ATTACKS`.

    Raises:
        FedhaError: There is none of that name.
    """
    found: set[str] = set()
    for name in names:
        known = [key for key in ATTACKS if key == name or key.startswith(GROUPS.get(name, "\0"))]
        if not known:
            near = difflib.get_close_matches(name, [*GROUPS, *ATTACKS], n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise FedhaError(
                f"there is no attack {name!r}; {hint}Groups are {', '.join(GROUPS)}; attacks are {', '.join(ATTACKS)}"
            )
        found.update(known)
    return tuple(key for key in ATTACKS if key in found or not names)
