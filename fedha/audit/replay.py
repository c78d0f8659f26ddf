"""A run done again, with a grid that listens: one seed gives one answer, so what is heard is what was sent."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from fedha import temporary
from fedha.audit import capture
from fedha.audit.overheard import ListeningGrid
from fedha.audit.releases import releases_of, shows_single_clients
from fedha.config import Config
from fedha.data.domain import Domain, DomainSet
from fedha.data.partition import client_domains
from fedha.engine.inline import inline_grid
from fedha.errors import FedhaError
from fedha.flower.serve import Job, serve
from fedha.flower.strategy import HessianAlignment
from fedha.runs import runfolder

Model = Mapping[str, Tensor]


@dataclass(frozen=True)
class RoundsHeard:
    """A listener that passes on how many rounds are done, and nothing else.

    Attributes:
        after_round: Called after each round with its number.
    """

    after_round: Callable[[int], None]

    def started(self, config: Config, folder: Path, first_round: int) -> None:
        """Ignore."""

    def round_done(self, record: Mapping[str, Any]) -> None:
        """Pass the round's number on."""
        self.after_round(int(record["round"]))

    def finished(self, results: Mapping[str, Any]) -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Ignore."""


def replay(
    config: Config,
    domains: DomainSet,
    *,
    rounds: Collection[int] = (),
    keep: Path | None = None,
    clients: Sequence[Domain] | None = None,
    after_round: Callable[[int], None] = lambda number: None,
) -> dict[str, Tensor]:
    """Train a run in this process through real messages, and write down what was sent in some of its rounds.

    Args:
        config: One recipe, one seed.
        domains: The run's domains.
        rounds: The rounds whose releases are kept.
        keep: The folder that `capture.read` reads them from afterwards; None to keep none.
        clients: What each client holds, where that is not its part of the domains.
        after_round: Called after each round with its number.

    Returns:
        The trained model's parameters, by name.

    Raises:
        FedhaError: As in `fedha.run.execute`; or a single client's tensors were sent where none may be.
    """
    held = client_domains(domains, config.data, config.seed[0]) if clients is None else clients
    examples = {client_id: len(one.train) for client_id, one in enumerate(held)}
    grid = ListeningGrid(inline_grid(config, domains, held), rounds if keep else ())
    shown: list[HessianAlignment] = []

    def over(number: int) -> None:
        exchanges = grid.take()
        if config.privacy.secure_aggregation and shows_single_clients(exchanges):
            raise FedhaError(
                f"privacy.secure_aggregation is on, but single clients' tensors reached the server in round {number}; "
                "what was sent is not protected"
            )
        if keep is not None and exchanges:
            capture.append(keep, releases_of(exchanges, shown[0].begun(), examples))
        after_round(number)

    with TemporaryDirectory(prefix="fedha-audit-", dir=temporary.wanted()) as made:
        folder = Path(made) / "run"
        serve(Job(_hastened(config), folder), grid, RoundsHeard(over), domains=domains, shown=shown.append)
        return runfolder.read_model(folder)


def difference(one: Model, other: Model) -> float | None:
    """The largest absolute difference of two models' parameters: 0 if they agree to the bit; None: other shapes."""
    if {name: value.shape for name, value in one.items()} != {name: value.shape for name, value in other.items()}:
        return None
    if all(torch.equal(value, other[name]) for name, value in one.items()):
        return 0.0
    return max(float((value.double() - other[name].double()).abs().max()) for name, value in one.items())


def _hastened(config: Config) -> Config:
    """The same training, without what leaves no trace in it: evaluation on the way, checkpoints, folds."""
    rounds = config.training.rounds
    ends = {} if config.training.stop is not None else {"every": rounds}  # what is evaluated may end it
    evaluation = config.evaluation.model_copy(update={"leave_one_domain_out": False, **ends})
    checkpoint = config.checkpoint.model_copy(update={"every": rounds, "keep": "last"})
    return config.model_copy(update={"evaluation": evaluation, "checkpoint": checkpoint})
