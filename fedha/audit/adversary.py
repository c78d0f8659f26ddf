"""A server that cheats, as an instrument: families of hostile requests, played against a config's own clients.

Each is played twice: against clients that hold the contract of the run, as a deployment's do, and against clients that
hold none, to show what the contract holds off. What a family gains is counted on what really came back.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from logging import CRITICAL
from typing import Any

from flwr.supercore.logger import FLOWER_LOGGER
from torch import Tensor

from fedha.audit import adversary_drift, adversary_models, adversary_sums
from fedha.audit.adversary_bench import Bench, Family, NotPlayedError, Outcome
from fedha.audit.adversary_layers import Passed, layers
from fedha.config import Config
from fedha.runs.versions import versions

FAMILIES: tuple[Family, ...] = (*adversary_drift.FAMILIES, *adversary_models.FAMILIES, *adversary_sums.FAMILIES)
"""All of them, in the order of the table."""

Progress = Callable[[str, int, int], None]  # what is being done, how much of it is done, of how much


@dataclass(frozen=True)
class Played:
    """A family that was played.

    Attributes:
        family: Its name.
        contract: Whether the clients held one.
        outcome: What became of it; None where it does not go with the config.
        reason: Why not, a sentence without its stop; "" where it was played.
    """

    family: str
    contract: bool
    outcome: Outcome | None
    reason: str = ""


@dataclass(frozen=True)
class Cheated:
    """All that was played against one config's clients.

    Attributes:
        made: Of what: name, recipe, seed, versions.
        played: Each family with a contract and without.
        layers: What first layers pass, honest and crafted ones; empty where the network has none of the kind.
    """

    made: Mapping[str, Any]
    played: tuple[Played, ...]
    layers: tuple[Passed, ...] = ()


def play(
    config: Config,
    progress: Progress = lambda what, done, of: None,
    families: tuple[Family, ...] = FAMILIES,
    trained: Mapping[str, Tensor] | None = None,
) -> Cheated:
    """Play families against the clients of a config.

    Args:
        config: One recipe, one seed.
        progress: Told of progress.
        families: Which.
        trained: The run's model, whose first layer is held beside crafted ones; None where there is none.

    Raises:
        FedhaError: Its data cannot be loaded here.
    """
    held = Bench.of(config)
    benches = (held, held.without_contract())
    found: list[Played] = []
    with _sites_quiet():
        for place, family in enumerate(families):
            progress(f"a server that cheats: {family.title}", place, len(families))
            found += _both(family, benches)
    made = {"name": config.name, "recipe": config.recipe[0].name, "seed": config.seed[0]}
    made |= {"clients": len(held.clients), "protect": config.privacy.protect, "versions": versions()}
    made["secure_aggregation"] = config.privacy.secure_aggregation
    return Cheated(made, tuple(found), _layers(held, trained))


@contextmanager
def _sites_quiet() -> Iterator[None]:
    """Keep what the clients say to their own logs off the terminal: each refusal is in the table."""
    before = FLOWER_LOGGER.level
    FLOWER_LOGGER.setLevel(CRITICAL + 1)
    try:
        yield
    finally:
        FLOWER_LOGGER.setLevel(before)


def _layers(bench: Bench, trained: Mapping[str, Tensor] | None) -> tuple[Passed, ...]:
    try:
        return layers(bench, trained)
    except NotPlayedError:  # the table of families says why
        return ()


def _both(family: Family, benches: tuple[Bench, ...]) -> Iterator[Played]:
    for bench in benches:
        with_contract = bench.contract is not None
        try:
            yield Played(family.name, with_contract, family.play(bench))
        except NotPlayedError as error:
            yield Played(family.name, with_contract, None, str(error))
