"""Decoding and stepping, one after the other and at once: JPEGs of a folder, a residual network, ERM."""

import statistics
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy
import torch
from PIL import Image
from sides import networks, rounds
from torch import Tensor

from card.stage import Stage
from fedha.data.domain import Domain
from fedha.data.examples import Examples
from fedha.data.images.decode import Square, pixels

DOMAINS, RATE, AHEAD = 3, 1e-5, 3
POOLS = (("threads", 16), ("threads", 4), ("processes", 16), ("threads", 8), ("threads", 1))


def compare(stage: Stage) -> None:
    """Images a second of decoding alone, of the step alone, of both in turns and at once; then of fedha's folder."""
    count, size, rows = (12, 32, 4) if stage.tiny else (384, 224, 32)
    with tempfile.TemporaryDirectory(prefix="images-") as folder:
        files = written(Path(folder), count, 2 * size)
        square, step, batches = Square(size, 3), stepping(stage, size, rows), cycle(files, DOMAINS * rows)
        alone = steps_of(stage, lambda: step(None))
        stage.say("the step alone", {"images/s": DOMAINS * rows / alone, "ms": 1e3 * alone})
        if not stage.over("fedha's folder"):
            through_folder(stage, Path(folder), size, rows, alone)
        for kind, workers in (("threads", 2), ("processes", 2)) if stage.tiny else POOLS:
            if not stage.over(f"decoding by {workers} {kind}"):
                with pool(kind, workers) as executor:
                    told(stage, f"{workers} {kind}", partial(decoded, executor, square), batches, step, alone)


def written(folder: Path, count: int, side: int) -> list[Path]:
    """JPEGs with as much detail as photographs have, in ``domain/class`` folders."""
    draws, files = numpy.random.default_rng(0), []
    for place in range(count):
        coarse = draws.integers(0, 256, (side // 16, side // 16, 3), dtype=numpy.uint8)
        image = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        grain = draws.normal(0, 8, (side, side, 3))
        mixed = (numpy.asarray(image) + grain).clip(0, 255).astype(numpy.uint8)
        path = folder / f"d{place % (DOMAINS + 1)}" / f"c{place // (DOMAINS + 1) % 2}" / f"{place}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mixed).save(path, quality=90)
        files.append(path)
    return files


def cycle(files: list[Path], size: int) -> Iterator[list[Path]]:
    """Batches without end."""
    place = 0
    while True:
        yield [files[(place + offset) % len(files)] for offset in range(size)]
        place += size


def stepping(stage: Stage, size: int, rows: int) -> Callable[[Tensor | None], None]:
    """A step of fedha's on the images that are given, or on those of before."""
    mixed = stage.device.type == "cuda"
    model = networks.residual("resnet18" if stage.tiny else "resnet50", mixed=mixed, channels_last=True)
    sources = networks.images(DOMAINS, rows, (3, size, size), stage.device)
    training = rounds.synchronous(None, RATE, DOMAINS * rows)
    course = rounds.plain(model.to(stage.device), sources, "erm", training, together=True)

    def step(images: Tensor | None) -> None:
        if images is not None:
            there = images.pin_memory() if stage.device.type == "cuda" else images
            for domain, own in zip(sources, there.split(rows), strict=True):
                domain.train.inputs.copy_(own.to(stage.device, non_blocking=True)).div_(255)
        next(course)

    return step


def pool(kind: str, workers: int) -> Executor:
    """Threads, or processes of their own that know nothing of the card."""
    if kind == "threads":
        return ThreadPoolExecutor(workers)
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"))


def decoded(executor: Executor, square: Square, files: list[Path]) -> Callable[[], Tensor]:
    """Begin with a batch's images; what is returned waits for them."""
    found = [executor.submit(pixels, file, square) for file in files]
    return lambda: torch.from_numpy(numpy.stack([one.result() for one in found]))


def told(
    stage: Stage,
    key: str,
    begin: Callable[[list[Path]], Callable[[], Tensor]],
    batches: Iterator[list[Path]],
    step: Callable[[Tensor | None], None],
    alone: float,
) -> None:
    """Decode, decode then step, and decode some batches ahead of the step."""
    size = len(next(batches))
    decoding = steps_of(stage, lambda: begin(next(batches))())
    in_turns = steps_of(stage, lambda: step(begin(next(batches))()))
    waiting = deque(begin(next(batches)) for _ in range(AHEAD))

    def at_once() -> None:
        waiting.append(begin(next(batches)))
        step(waiting.popleft()())

    overlapped = steps_of(stage, at_once, AHEAD)
    for one in waiting:
        one()
    numbers = {"decoding": decoding, "in turns": in_turns, "at once": overlapped}
    rates = {f"{name} images/s": size / seconds for name, seconds in numbers.items()}
    stage.say(key, rates | {"of the slower one's rate": max(decoding, alone) / overlapped})


def steps_of(stage: Stage, work: Callable[[], object], warm: int = 1) -> float:
    """The median of some steps' seconds."""
    for _ in range(warm):
        work()
    return statistics.median(stage.seconds(work) for _ in range(3 if stage.tiny else 8))


def through_folder(stage: Stage, root: Path, size: int, rows: int, alone: float) -> None:
    """fedha's own folder of images, with whatever it decodes ahead."""
    from fedha.config import DataConfig
    from fedha.data import load

    config = DataConfig(name="folder", root=root, target=f"d{DOMAINS}", size=size, channels=3, held_out=0.0)
    sources: list[Domain] = list(load(config, 0).sources)
    assert all(isinstance(one.train, Examples) for one in sources)
    mixed = stage.device.type == "cuda"
    model = networks.residual("resnet18" if stage.tiny else "resnet50", mixed=mixed, channels_last=True)
    course = rounds.plain(
        model.to(stage.device), sources, "erm", rounds.synchronous(rows, RATE, DOMAINS * rows), together=True
    )
    seconds = steps_of(stage, lambda: next(course), 2)
    stage.say("fedha's folder", {"images/s": DOMAINS * rows / seconds, "of the step's rate": alone / seconds})
