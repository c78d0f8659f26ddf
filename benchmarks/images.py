"""An epoch over a folder of JPEG files: fedha's decoding against torchvision's ImageFolder with a DataLoader.

Both take shuffled batches of 32 images as float32 tensors, resized to a square, with as many workers: threads here,
processes there. `python benchmarks/images.py [--images 10000] [--size 64] [--repeats 3] [--quick]`
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy
import torch
from PIL import Image

from fedha.config import DataConfig
from fedha.data import load
from fedha.data.examples import Examples, joined
from fedha.pieces import with_next

DOMAINS, CLASSES, BATCH = ("art", "cartoon", "photo", "sketch"), 7, 32
WORKERS = 2


def make(root: Path, count: int, distinct: int) -> None:
    """A folder of so many JPEG files of 96 to 256 pixels a side; beyond the distinct ones they are links."""
    draws, files = numpy.random.default_rng(0), list[Path]()
    for number in range(count):
        folder = root / DOMAINS[number % 4] / f"class{number // 4 % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{number:06}.jpg"
        if number >= distinct:
            os.link(files[number % distinct], path)
            continue
        width, height = draws.integers(96, 257, 2).tolist()
        coarse = Image.fromarray(draws.integers(0, 256, (12, 12, 3), dtype=numpy.uint8))
        smooth = numpy.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(numpy.int16)
        noisy = smooth + draws.normal(0, 8, (height, width, 1)).astype(numpy.int16)
        Image.fromarray(noisy.clip(0, 255).astype(numpy.uint8)).save(path, quality=90)
        files.append(path)


def ours(root: Path, size: int, cache: Path | None = None, augment: str = "none") -> Examples:
    """All images of the folder."""
    options = {"size": size, "channels": 3, "workers": WORKERS, "held_out": 0, "cache": cache, "augment": augment}
    domains = load(DataConfig(name="folder", root=root, target=DOMAINS[-1], **options), 0)
    return joined([*(one.train for one in domains.sources), domains.targets[0].held_out])


def epoch_ours(examples: Examples, round: int) -> Iterator[torch.Tensor]:
    """As training takes them: the next batch is decoded while one is computed with."""
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(round))
    for rows, after in with_next(order.split(BATCH)):
        if after is not None:
            examples.expect(after, (0, round, 0))
        yield examples.take(rows, (0, round, 0))


def theirs(root: Path, size: int, augment: str) -> torch.utils.data.DataLoader:
    """torchvision's, over all domains."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    domainbed = [
        v2.RandomResizedCrop(size, scale=(0.7, 1.0)),
        v2.RandomHorizontalFlip(),
        v2.ColorJitter(0.3, 0.3, 0.3, 0.3),
        v2.RandomGrayscale(),
    ]
    change = domainbed if augment == "domainbed" else [v2.Resize((size, size))]
    tensor = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
    sets = [ImageFolder(root / name, v2.Compose([*change, *tensor])) for name in DOMAINS]
    return torch.utils.data.DataLoader(
        torch.utils.data.ConcatDataset(sets), BATCH, shuffle=True, num_workers=WORKERS, multiprocessing_context="fork"
    )


def timed(batches: Callable[[], Iterator[torch.Tensor]]) -> tuple[float, float, int]:
    """Seconds by the clock and of all processors, and images seen."""
    began, before, seen = time.perf_counter(), _processor(), 0
    for batch in batches():
        seen += len(batch[0] if isinstance(batch, list) else batch)
    return time.perf_counter() - began, _processor() - before, seen


def _processor() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def compare(root: Path, size: int, repeats: int, augment: str) -> dict[str, dict[str, float]]:
    """Alternating epochs; prints the medians and their ratios, by the clock and of CPU, and returns the seconds."""
    plain = ours(root, size, augment=augment)
    kept = ours(root, size, root.parent / "cache") if augment == "none" else plain
    loader = theirs(root, size, augment)
    ways: dict[str, Callable[[int], Iterator[torch.Tensor]]] = {
        "ImageFolder and DataLoader": lambda _: iter(loader),
        "fedha": lambda round: epoch_ours(plain, round),
    }
    if augment == "none":
        ways["fedha, from the cache"] = lambda round: epoch_ours(kept, round)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for round in range(repeats):
        for name, way in ways.items():
            clock, processor, seen = timed(lambda way=way, round=round: way(round))
            assert seen == len(plain), (name, seen)
            times[name].append((clock, processor))
    first, seconds = None, dict[str, dict[str, float]]()
    print(f"{len(plain):,} images to {size} x {size}, {WORKERS} workers, augment {augment}; medians of {repeats}")
    for name, found in times.items():
        clock, processor = (sorted(one[at] for one in found)[len(found) // 2] for at in (0, 1))
        ratios = sorted(
            one[0] / other[0] for one, other in zip(found, times["ImageFolder and DataLoader"], strict=True)
        )
        first = first or (clock, processor)
        seconds[name] = {"clock": clock, "processor": processor}
        print(
            f"  {name:28} {clock:6.2f} s  {processor:6.2f} CPU s  x{clock / first[0]:.2f} by the clock "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f}), x{processor / first[1]:.2f} of CPU"
        )

    return seconds


def peak(root: Path, size: int, cached: bool) -> int:
    """Memory in MB that a process has had at most, after 300 batches of a folder."""
    examples = ours(root, size, root.parent / "cache" if cached else None)
    for number, _ in enumerate(epoch_ours(examples, 0)):
        if number == 300:
            break
    status = Path("/proc/self/status").read_text()  # ru_maxrss has its parent's
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def memory(size: int, counts: Sequence[int]) -> dict[int, list[int]]:
    """The peak over folders of so many images, each in a process of its own, in MB: decoded, and from the cache."""
    peaks = {}
    for count in counts:
        with tempfile.TemporaryDirectory() as place:
            make(Path(place) / "images", count, 200)
            peaks[count] = [
                int(
                    subprocess.run(
                        [sys.executable, __file__, "--peak", place, "--size", str(size), *more],
                        check=True,
                        capture_output=True,
                        text=True,
                    ).stdout
                )
                for more in ([], ["--cached"])
            ]
        print(f"  {count:7,} images: peak {peaks[count][0]} MB, from the cache {peaks[count][1]} MB")
    return peaks


def main() -> None:
    """Measure."""
    wanted = argparse.ArgumentParser(description=__doc__)
    wanted.add_argument("--images", type=int, default=10_000)
    wanted.add_argument("--size", type=int, default=64)
    wanted.add_argument("--repeats", type=int, default=3)
    wanted.add_argument("--quick", action="store_true", help="seconds: only shows that it works")
    wanted.add_argument("--peak", type=Path, help=argparse.SUPPRESS)
    wanted.add_argument("--cached", action="store_true", help=argparse.SUPPRESS)
    given = wanted.parse_args()
    torch.set_num_threads(1)
    if given.peak is not None:
        print(peak(given.peak / "images", given.size, given.cached))
        return
    images, repeats = (60, 1) if given.quick else (given.images, given.repeats)
    with tempfile.TemporaryDirectory() as place:
        make(Path(place) / "images", images, images)
        epochs = {
            augment: compare(Path(place) / "images", given.size, repeats, augment) for augment in ("none", "domainbed")
        }
    peaks = memory(given.size, (100,) if given.quick else (1_000, 10_000, 100_000))
    print(json.dumps({"images": {"seconds": epochs, "peak": peaks}}))


if __name__ == "__main__":
    main()
