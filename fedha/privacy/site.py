"""What a client decides for itself, whatever the server says: where its chance comes from, and what it allows."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from fedha.config import PrivacyConfig
from fedha.privacy.account import Account
from fedha.privacy.limits import Limits
from fedha.privacy.noise import Source, cryptographic, seeded

Randomness = Literal["seeded", "cryptographic"]


@dataclass
class Site:
    """A client's own rules; `fedha.privacy.gate` holds requests to them.

    Attributes:
        randomness: Where noise and Poisson samples come from. It is never the server that says so.
        limits: What the site's operator allows; None in simulations, where the config's own guards hold.
        account: What was released and when, over all runs, where there are limits.
        clock: Seconds since 1970.
    """

    randomness: Randomness = "seeded"
    limits: Limits | None = None
    account: Account = field(default_factory=Account)
    clock: Callable[[], float] = time.time

    def source(self, seed: int, *key: int | str) -> Source:
        """Chance for one release."""
        return seeded(seed, *key) if self.randomness == "seeded" else cryptographic()

    def protects(self, privacy: PrivacyConfig) -> bool:
        """Whether anything is kept from the server here, so that errors and requests must be looked at."""
        return self.limits is not None or sensitive(privacy)


def sensitive(privacy: PrivacyConfig) -> bool:
    """Whether a run keeps anything of its clients from the server, so that their errors must not tell it."""
    return privacy.protect != "nothing" or privacy.secure_aggregation or privacy.min_examples > 1
