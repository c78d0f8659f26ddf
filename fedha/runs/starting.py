"""A run that begins with another run's model, as in linear probing and then fine-tuning."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fedha.config.model import StartConfig
from fedha.errors import FedhaError, listed
from fedha.models.split import SplitModel, plain_name
from fedha.models.state import named_state
from fedha.objects import digest_of
from fedha.runs import runfolder
from fedha.runs.kept import model_of, round_of

Named = Mapping[str, Tensor]


@dataclass(frozen=True)
class Start:
    """The model that a run began with.

    Attributes:
        run: The folder of the other run, as the config names it.
        digest: Of that model's whole state.
        round: Of which round it was.
    """

    run: str
    digest: str
    round: int


def start_from(model: SplitModel, start: StartConfig, folder: Path, *, head: bool) -> tuple[Start, tuple[str, ...]]:
    """Put a finished run's state into a network.

    Args:
        model: Changed in place, once everything fits.
        start: The other run and its round, as the config names them.
        folder: Where that is here.
        head: Whether the head is taken too; else it stays as it is.

    Returns:
        What it began with, and the domains that the other run was trained on.

    Raises:
        FedhaError: There is no finished run, the model of that round was not kept, or its network is another one.
    """
    told = f"model.start is {start}"
    if not runfolder.holds_run(folder):
        raise FedhaError(f"{told}, but there is no run in it; name the folder of a finished one, with its config.yaml")
    if not runfolder.is_finished(folder):
        raise FedhaError(f"{told}, whose run has not finished; finish it with `fedha resume {folder}`")
    results = runfolder.read_results(folder)
    try:
        number = start.round or round_of(folder, results, start.rule)
        saved = runfolder.read_model(folder, model_of(folder, results, number=number))
    except FedhaError as error:
        raise FedhaError(f"{told}: {error}") from error
    if broken := [name for name, value in saved.items() if not bool(value.isfinite().all())]:
        raise FedhaError(f"{told}, whose {broken[0]!r} is not finite: it diverged; take another run")
    found = _fitting(told, _plain(saved), _plain(named_state(model)), head)
    with torch.no_grad():
        for own, value in found:
            own.copy_(value)
    return Start(str(start.run), digest_of(saved.items()), number), tuple(results["sources"])


def _fitting(told: str, saved: Named, own: Named, head: bool) -> list[tuple[Tensor, Tensor]]:
    """Each part of a network with what it becomes."""
    wanted, given = (
        {name: value for name, value in one.items() if head or not name.startswith("head.")} for one in (own, saved)
    )
    for names, lacks in ((wanted.keys() - given.keys(), "lacks"), (given.keys() - wanted.keys(), "has also")):
        if names:
            raise FedhaError(
                f"{told}, whose network {lacks} {listed(map(repr, sorted(names)), most=3)}; take the network of that "
                f"run{_or_a_new_head(names)}"
            )
    for name, value in wanted.items():
        if given[name].shape != value.shape:
            raise FedhaError(
                f"{told}, whose {name!r} has shape {tuple(given[name].shape)} where this network's has "
                f"{tuple(value.shape)}; take the network of that run{_or_a_new_head([name])}"
            )
    return [(value, given[name]) for name, value in wanted.items()]


def _or_a_new_head(names: Iterable[str]) -> str:
    only = all(name.startswith("head.") for name in names)
    return ", or set model.start_head to false to begin with a new head" if only else ""


def _plain(state: Named) -> dict[str, Tensor]:
    """A state by the names that it has in float32: what is in mixed precision has its layers one name deeper."""
    plain = {plain_name(name): value for name, value in state.items()}
    return plain if len(plain) == len(state) else dict(state)
