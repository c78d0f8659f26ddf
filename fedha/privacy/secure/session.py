"""What all clients of one secure sum agree on before it begins."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from fedha.errors import FedhaError
from fedha.privacy.secure.layout import Layout
from fedha.privacy.secure.packing import digest, pack

MINIMUM = 3  # in a sum of two each client knows the other's part
_COMPARABLE = 10  # clients whose weights differ by less than this hide each other


@dataclass(frozen=True)
class Session:
    """One secure sum. Its digest is in every signature and every key: nothing of one session fits another.

    Attributes:
        run: The run's name or number.
        round: From 1.
        exchange: What is summed: which statistics, or the update.
        cohort: The clients' places, ascending.
        layout: Of the vectors.
        weights: Each client's in the sum, in the cohort's order. Everybody sees everybody's: a server that chose them
            alone could leave one client's vector as good as the only one.
        threshold: Shares of this many clients give a secret, and so many must stay to the end. More than half of the
            cohort: else a malicious server could have two sets of survivors confirmed.
        minimum: The fewest clients whose sum may be learnt.

    Everybody shares masks and secrets with everybody: in a sparser graph a server that calls the right clients lost has
    groups of a few whose masks cancel by themselves.

    Raises:
        FedhaError: A number is out of its range, or the cohort is not ascending.
    """

    run: str
    round: int
    exchange: str
    cohort: tuple[int, ...]
    layout: Layout
    weights: tuple[float, ...]
    threshold: int
    minimum: int

    def __post_init__(self) -> None:
        clients = len(self.cohort)
        if list(self.cohort) != sorted(set(self.cohort)) or any(client_id < 0 for client_id in self.cohort):
            raise FedhaError(f"the cohort {self.cohort} is not ascending from 0 on; name each client once, in order")
        if self.minimum < 2:
            raise FedhaError(f"a minimum of {self.minimum} clients would lay a single one open; take 3, or at least 2")
        if clients < self.minimum:
            raise FedhaError(
                f"{clients} clients take part and no sum of fewer than {self.minimum} may be learnt; have more clients "
                "a round, or lower the minimum (in a sum of two each knows the other's part)"
            )
        if not clients // 2 < self.threshold <= clients:
            raise FedhaError(
                f"a threshold of {self.threshold} of {clients} clients is out of range; more than half, at least "
                f"{clients // 2 + 1}, keep a malicious server from having two sets of survivors confirmed"
            )
        if self.layout.clients < clients:
            raise FedhaError(f"a layout for {self.layout.clients} clients has no room for {clients}; make a larger one")
        if len(self.weights) != clients or not all(0 < weight < math.inf for weight in self.weights):
            raise FedhaError(f"the weights {self.weights} of {clients} clients are not one positive number each")
        self.check_weights(self.cohort)

    @cached_property
    def digest(self) -> bytes:
        """32 bytes that no other session has."""
        return digest("session", pack(self))

    @property
    def quorum(self) -> int:
        """How many clients must send keys, shares and masked vectors."""
        return max(self.threshold, self.minimum)

    def others(self, client_id: int) -> tuple[int, ...]:
        """The clients that a client shares masks with, ascending: all but itself."""
        return tuple(other for other in self.cohort if other != client_id)

    def weight(self, client_id: int) -> float:
        """A client's weight: what `encoding.encode` multiplies its tensors with."""
        return self.weights[self.cohort.index(client_id)]

    def total_weight(self, client_ids: Sequence[int]) -> float:
        """What `encoding.decode` divides the sum over these clients by, for their mean."""
        return sum(self.weight(client_id) for client_id in client_ids)

    def least_weight(self, client_id: int) -> float:
        """What a sum with this client in it weighs at least: its own, and that of as few and light others as may be."""
        others = sorted(map(self.weight, self.others(client_id)))
        return self.weight(client_id) + sum(others[: self.quorum - 1])

    def check_weights(self, client_ids: Sequence[int]) -> None:
        """Refuse a sum in which one client is not hidden by the others, for they weigh next to nothing.

        Raises:
            FedhaError: Fewer than `minimum` of the clients, it included, weigh a tenth of the heaviest.
        """
        if not self.hides(client_ids):
            heaviest = max(map(self.weight, client_ids), default=0.0)
            raise FedhaError(
                f"the heaviest client in {self.name} weighs {heaviest:g}, and fewer than {self.minimum} weigh a "
                "tenth of that or more, so the sum would be nearly its own; average by clients, or have more alike ones"
            )

    def hides(self, client_ids: Sequence[int]) -> bool:
        """Whether none of these clients is laid open by a sum of them: `minimum` weigh a tenth of the heaviest."""
        weights = sorted(map(self.weight, client_ids))
        return sum(weight * _COMPARABLE >= weights[-1] for weight in weights) >= self.minimum

    @property
    def name(self) -> str:
        """For sentences."""
        return f"round {self.round}'s {self.exchange}"


def make_session(
    run: str,
    round: int,
    exchange: str,
    cohort: Sequence[int],
    layout: Layout,
    *,
    weights: Mapping[int, float] | None = None,
    threshold: int | None = None,
    minimum: int = MINIMUM,
) -> Session:
    """A session with the usual numbers.

    Args:
        run: The run's name or number.
        round: From 1.
        exchange: What is summed.
        cohort: The clients' places, in any order.
        layout: Of the vectors.
        weights: By client id; default: all alike, and 1 together.
        threshold: Default: `usual_threshold`.
        minimum: The fewest clients whose sum may be learnt.

    Raises:
        FedhaError: As in `Session`.
    """
    client_ids = tuple(sorted(cohort))
    return Session(
        run,
        round,
        exchange,
        client_ids,
        layout,
        tuple(1 / len(client_ids) if weights is None else weights.get(client_id, math.nan) for client_id in client_ids),
        usual_threshold(len(client_ids)) if threshold is None else threshold,
        minimum,
    )


def usual_threshold(clients: int) -> int:
    """``floor(2 n / 3) + 1``: safe against a malicious server together with fewer than a third of the clients.

    Source:
        Bonawitz et al. (CCS 2017), section 6: two sets of survivors would need ``2 t <= n + malicious`` confirmations.
    """
    return 2 * clients // 3 + 1
