"""A synchronous round against a hand-written loop's step: residual networks on large images, ERM and the penalties."""

import gc
import importlib.util
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from sides import by_hand, networks, rounds

from card.stage import Stage, milliseconds, ratio
from fedha.data.domain import Domain
from fedha.models import SplitModel

DOMAINS, RATE = 3, 1e-5  # with random weights and frozen batch norm, a larger step leaves the finite numbers
RECIPES = ("erm", "coral", "hgp", "exact_diagonal")


@dataclass(frozen=True)
class Case:
    """One network, and how it computes.

    Attributes:
        architecture: Its name.
        mixed: In bfloat16.
        channels_last: How its weights lie.
        pixels: A side of an image.
        rows: Images of each domain in a step.
    """

    architecture: str
    mixed: bool
    channels_last: bool
    pixels: int
    rows: int

    def __str__(self) -> str:
        return f"{self.architecture}, {'bfloat16' if self.mixed else 'float32'}{', channels_last' * self.channels_last}"

    def network(self, device: torch.device) -> SplitModel:
        """The same each time."""
        made = networks.residual(self.architecture, mixed=self.mixed, channels_last=self.channels_last)
        return made.to(device)

    def sources(self, device: torch.device) -> list[Domain]:
        """Random images on the device."""
        return networks.images(DOMAINS, 4 * self.rows, (3, self.pixels, self.pixels), device)


def cases(tiny: bool) -> list[Case]:
    """Those whose figures matter most come first."""
    pixels, rows = (32, 4) if tiny else (224, 32)
    names = ("resnet18",) if tiny else ("resnet18", "resnet50")
    kinds = ((False, False), (True, True), (True, False), (False, True))[: 2 if tiny else None]
    return [Case(name, *kind, pixels, rows) for kind in kinds for name in names]


def compare(stage: Stage) -> None:
    """Every case and recipe, then what Flower's messages and pieces of the default size add."""
    if importlib.util.find_spec("timm") is None and importlib.util.find_spec("torchvision") is None:
        stage.leave_out("residual networks: neither timm nor torchvision is installed")
        return
    kinds = cases(stage.tiny)
    for place, case in enumerate(kinds):
        for recipe in RECIPES if place < (1 if stage.tiny else 4) else RECIPES[::3]:
            if not stage.over(f"{case}, {recipe}"):
                one(stage, case, recipe)
    for case in kinds[: 1 if stage.tiny else 4]:
        if not stage.over(f"{case} with pieces of the default size"):
            pieces(stage, case)
    if importlib.util.find_spec("flwr") is None:
        stage.leave_out("rounds over Flower's messages: flwr is not installed")
        return
    for case in kinds[: 1 if stage.tiny else 4]:
        if not stage.over(f"{case} over Flower's messages"):
            messages(stage, case)


def one(stage: Stage, case: Case, recipe: str) -> None:
    """Seconds and memory of both sides."""
    sources, total = case.sources(stage.device), DOMAINS * case.rows
    training = rounds.synchronous(case.rows, RATE, total)
    sides: dict[str, Iterator[Any]] = {
        "by hand": by_hand.steps(case.network(stage.device), sources, recipe, case.rows, RATE),
        "fedha": rounds.plain(case.network(stage.device), sources, recipe, training, together=True),
    }
    held = {}
    for name, side in sides.items():  # each warms up in its turn, and is then alone in what it takes
        next(side)
        held[name] = stage.megabytes(lambda side=side: next(side))
    times = stage.pairs(sides, 1 if stage.tiny else 3, 3 if stage.tiny else 9)
    stage.say(f"{case}, {recipe}", _told(times, total) | {f"MiB a step {name}": round(v) for name, v in held.items()})
    del sides, sources
    _clear(stage)


def pieces(stage: Stage, case: Case) -> None:
    """What a round costs where the size of a piece is fedha's own choice."""
    sources, total = case.sources(stage.device), DOMAINS * case.rows
    sides: dict[str, Iterator[Any]] = {
        "by hand": by_hand.steps(case.network(stage.device), sources, "exact_diagonal", case.rows, RATE),
        "fedha": rounds.plain(
            case.network(stage.device), sources, "exact_diagonal", rounds.synchronous(case.rows, RATE), together=False
        ),
    }
    times = stage.pairs(sides, 1, 3)
    stage.say(f"{case}, exact_diagonal, clients one by one, pieces of the default size", _told(times, total))
    del sides, sources
    _clear(stage)


def messages(stage: Stage, case: Case) -> None:
    """The strategy's round through the inline engine, whose server keeps the model on the processor."""
    sources, total = case.sources(stage.device), DOMAINS * case.rows
    training = rounds.synchronous(case.rows, RATE, total)
    sides: dict[str, Iterator[Any]] = {
        "by hand": by_hand.steps(case.network(stage.device), sources, "erm", case.rows, RATE),
        "fedha": rounds.through_engine(
            lambda: case.network(torch.device("cpu")),
            sources,
            "erm",
            training,
            together=True,
            device=stage.device.type,
        ),
    }
    times = stage.pairs(sides, 2, 3 if stage.tiny else 7)
    stage.say(f"{case}, erm, over Flower's messages", _told(times, total))
    del sides, sources
    _clear(stage)


def _told(times: dict[str, list[float]], images: int) -> dict[str, Any]:
    return {
        "ratio": ratio(times["fedha"], times["by hand"]),
        "by hand ms": milliseconds(times["by hand"]),
        "fedha ms": milliseconds(times["fedha"]),
        "images/s": images / statistics.median(times["fedha"]),
        "repeats": len(times["fedha"]),
    }


def _clear(stage: Stage) -> None:
    gc.collect()
    if stage.device.type == "cuda":
        torch.cuda.empty_cache()
