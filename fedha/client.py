"""A client: its data, a model to compute with, what it remembers between rounds, and its own rules."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fedha.client_state import ClientState
from fedha.cohort import Member
from fedha.data.domain import Domain
from fedha.exchange import Reply
from fedha.models.split import SplitModel
from fedha.privacy.site import Site


@dataclass
class Client:
    """One client, as all who answer for it take it (`fedha.training.Holder`).

    Attributes:
        client_id: Its number in client order, from 0.
        domain: Its data, on the model's device and of the model's precision.
        model: Structure, and what of its state is constant; the rest comes with each request.
        state: What it remembers; mostly nothing.
        site: Its own rules: where its noise comes from, what it refuses.
        last_pass: What was computed of its rows last, kept until it has trained; who made it knows it again.
        stays: Whether its process will be asked in the next round, too, so that it is worth beginning with that.
    """

    client_id: int
    domain: Domain
    model: SplitModel
    state: ClientState = field(default_factory=ClientState)
    site: Site = field(default_factory=Site)
    last_pass: object = field(default=None, repr=False)
    stays: bool = False

    @property
    def member(self) -> Member:
        """What the server knows of it."""
        return Member(self.client_id, self.domain.name, len(self.domain.train))

    def reply(
        self, tensors: Mapping[str, Tensor], metrics: Mapping[str, Any] | None = None, *, weighed: bool = False
    ) -> Reply:
        """An answer in this client's name; of the metrics, what are several numbers each are its sums."""
        domain, given = self.domain, metrics or {}
        sums = {name: value for name, value in given.items() if isinstance(value, list)}
        numbers = {name: value for name, value in given.items() if name not in sums} if sums else given
        return Reply(
            *(domain.client_name, domain.name, self.client_id, len(domain.train), tensors, numbers, weighed), sums=sums
        )
