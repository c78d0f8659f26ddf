"""What a client holds every sum to: the session that its run's settings give, and none other.

The server proposes a session, but has no choice in it: range, threshold, minimum and weights follow from the settings
that all clients were asked under, whose digest is in the masks. A server that chose them for a sum would lay clients
open by tiny weights of the others, or ask by ever other ranges whether one client's numbers fit.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fedha.config import PrivacyConfig
from fedha.errors import FedhaError
from fedha.privacy.secure.layout import make_layout
from fedha.privacy.secure.numbers import BOUND, NUMBERS
from fedha.privacy.secure.session import Session, usual_threshold

_ROUNDING = 1e-9  # of weights


@dataclass(frozen=True)
class Terms:
    """The numbers of a run's sums.

    Attributes:
        minimum: The fewest clients whose sum may be learnt.
        threshold: So many clients must stay to the end; None: `session.usual_threshold` of those who take part.
        bound: The largest absolute value, weight included, that can be sent.
        averaging: What the clients' weights follow from; by *examples* and *clients* all are alike in a session.
    """

    minimum: int
    threshold: int | None
    bound: float
    averaging: Literal["domains", "clients", "examples"]

    @classmethod
    def of(cls, privacy: PrivacyConfig, averaging: Literal["domains", "clients", "examples"]) -> "Terms":
        """Those of a run's settings."""
        return cls(privacy.minimum, privacy.threshold, privacy.bound, averaging)

    def check(self, session: Session) -> None:
        """Refuse another session than a server that follows the protocol proposes.

        Raises:
            FedhaError: It is one; says in what.
        """
        clients = len(session.cohort)
        threshold = usual_threshold(clients) if self.threshold is None else self.threshold
        if (session.threshold, session.minimum) != (threshold, self.minimum):
            raise FedhaError(
                f"{session.name} is to have a threshold of {session.threshold} and a minimum of {session.minimum}, and "
                f"the run's settings give {threshold} and {self.minimum}; the server is broken or cheats"
            )
        shapes = {slot.name: slot.shape for slot in session.layout.slots}
        bounds = {**dict.fromkeys(shapes, self.bound), NUMBERS: BOUND}
        if session.layout != make_layout(shapes, clients, bounds):
            raise FedhaError(
                f"the numbers of {session.name} are to be summed in another range than privacy.bound {self.bound:g} "
                "gives; the server is broken or cheats"
            )
        if not (_alike(session.weights) or (self.averaging == "domains" and _by_domain(session.weights))):
            raise FedhaError(
                f"the weights in {session.name} are not those of training.averaging {self.averaging}; the server is "
                "broken or cheats"
            )


def _alike(weights: Sequence[float]) -> bool:
    return all(math.isclose(weight * len(weights), 1, rel_tol=_ROUNDING) for weight in weights)


def _by_domain(weights: Sequence[float]) -> bool:
    """Whether some division of the clients into domains of equal weight, whose clients are alike, gives these weights.

    With D domains a client of one that has n weighs 1 / (D n), and there are n of it, or another domain has as many.
    """
    known = Counter(weights)

    def fits(domains: int) -> bool:
        found = 0
        for weight, clients in known.items():
            size = round(1 / (domains * weight)) if domains * weight > 1 / (2 * len(weights)) else 0
            if not size or clients % size or not math.isclose(size * domains * weight, 1, rel_tol=_ROUNDING):
                return False
            found += clients // size
        return found == domains

    return any(fits(domains) for domains in range(1, len(weights) + 1))
