"""Who takes part in a round, and how much each counts."""

import hashlib
import hmac
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fedha.config import TrainingConfig
from fedha.errors import FedhaError
from fedha.randomness import generator


@dataclass(frozen=True)
class Member:
    """One client as the server knows it.

    Attributes:
        client_id: Its number in client order, from 0.
        domain: Its domain's name.
        examples: Training examples it holds; 0 where it does not say.
        input_shape: Shape of one of its inputs (of several, their shapes); () where it did not say.
        noise: Where its noise comes from, seeded or cryptographic; "" where it has none.
        held_out: Held-out examples that it could evaluate, where it says so.
        unreached: Parameters that no loss can move, as its network is made.
    """

    client_id: int
    domain: str
    examples: int
    input_shape: Any = ()
    noise: str = ""
    held_out: int = 0
    unreached: tuple[str, ...] = ()

    @property
    def who(self) -> str:
        """What events and errors call it."""
        return f"client {self.client_id} (domain {self.domain!r})"


def draw_cohort(
    training: TrainingConfig, seed: int, round: int, members: Sequence[Member], secret: bytes = b""
) -> list[Member]:
    """The clients of a round, in client order: the same for the same seed, secret and round, on every engine.

    Args:
        training: Its clients_per_round and client_sampling.
        seed: The run's seed, which every request carries.
        round: From 1.
        members: All clients, in client order.
        secret: Where being drawn is to hide a client: what the server alone knows, which then decides in the seed's
            place. Uniform draws only; no other claims to hide anybody.

    Raises:
        FedhaError: More clients are asked for than there are.
    """
    count = cohort_size(training, len(members))
    if count == len(members):
        return list(members)
    if secret and training.client_sampling == "uniform":
        chosen = sorted(members, key=lambda one: _lot(secret, round, one.client_id))[:count]
        return sorted(chosen, key=lambda one: one.client_id)
    draws = generator(seed, "cohort", round)
    if training.client_sampling == "uniform":
        places = torch.randperm(len(members), generator=draws)[:count]
    else:
        sizes = torch.tensor([one.examples for one in members], dtype=torch.float64)
        places = torch.multinomial(sizes, count, replacement=False, generator=draws)
    return [members[place] for place in sorted(places.tolist())]


def simulated_secret(seed: int) -> bytes:
    """What a simulation takes for the server's secret, so that the same run draws the same clients on every engine.

    Args:
        seed: The run's: who knows it knows who is drawn, as it knows all of a simulation's noise.
    """
    return hashlib.sha256(f"cohorts of the seed {seed}".encode()).digest()


def _lot(secret: bytes, round: int, client_id: int) -> bytes:
    """A client's lot in a round; the lowest ones take part. Without the secret nobody tells it from chance."""
    return hmac.digest(secret, f"{round}/{client_id}".encode(), "sha256")


def cohort_size(training: TrainingConfig, clients: int) -> int:
    """How many clients a round has: the number asked for, or the fraction rounded, but at least one.

    Raises:
        FedhaError: More clients are asked for than there are.
    """
    wanted = training.clients_per_round
    if wanted is None:
        return clients
    if isinstance(wanted, float):
        return max(1, round(wanted * clients))
    if wanted > clients:
        raise FedhaError(
            f"training.clients_per_round is {wanted} but there are {clients} clients; ask for fewer, "
            "raise data.clients_per_domain, or leave it out for all of them"
        )
    return wanted


def averaging_weights(training: TrainingConfig, cohort: Sequence[Member]) -> list[float]:
    """Each client's weight in the averages: by domain (clients of one domain share its part), example or client."""
    secret = not any(one.examples for one in cohort)  # then the counts are summed with what they weigh
    if training.averaging == "clients" or (training.averaging == "examples" and secret):
        return [1 / len(cohort)] * len(cohort)
    if training.averaging == "examples":
        examples = sum(one.examples for one in cohort)
        return [one.examples / examples for one in cohort]
    within = Counter(one.domain for one in cohort)
    return [1 / (len(within) * within[one.domain]) for one in cohort]
