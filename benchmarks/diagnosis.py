"""What a diagnosis costs from features that are there: attack, minima, bounds, all pairs' norms, rates of products.

python benchmarks/diagnosis.py [--quick] [--classes 7] [--width 2048] [--domains 4] [--examples 2500] [--threads 1]
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from fedha.diagnosis.curvature import norms
from fedha.diagnosis.party import pooled
from fedha.diagnosis.sample import Sample, probabilities
from fedha.diagnosis.transfer import both_ways
from fedha.randomness import generator

LOGITS = (0.1, 0.3, 1.0, 3.0)
SIZES = {"classes": 7, "width": 2048, "domains": 4, "examples": 2500, "threads": 1}
QUICK = {"classes": 3, "width": 40, "domains": 3, "examples": 60, "threads": 1}


def main() -> None:
    """Print what was measured, and all of it as JSON in the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small head, a few examples")
    for name in SIZES:
        parser.add_argument(f"--{name}", type=int)
    given = vars(parser.parse_args())
    sizes = {name: given[name] or (QUICK if given["quick"] else SIZES)[name] for name in SIZES}
    torch.set_num_threads(sizes["threads"])
    samples = [made(sizes["classes"], sizes["width"] + 1, sizes["examples"], seed) for seed in range(sizes["domains"])]
    head = samples[0].head
    found: dict[str, Any] = {**sizes, "rates": rates(samples[0])}
    parties, found["sizes"] = timed("sizes of the features", lambda: [one.party() for one in samples])
    known, found["norms"] = timed("norms of all pairs", lambda: norms(parties, (head.shape[0], head.shape[1])))
    for one in known:
        told = f"[{one.lower:.4g}, {one.upper:.4g}], {one.rule}, {one.exchanges} exchanges"
        print(f"    {one.first} {one.second}: {told}")
    scale = (sum(one.sizes.mean_square for one in parties[:-1]) / (len(parties) - 1)) ** 0.5
    source, radii = pooled(parties[:-1], "sources"), [one / scale for one in LOGITS]
    both = partial(both_ways, source, parties[-1], head, radii, parties)
    pairs, found["transfer"] = timed("attack, minima and bounds, both ways", both)
    for pair in pairs:
        told = f"{pair.measured:.4f} <= {pair.bound:.4f} ({pair.parts.rule}), {pair.climb.exchanges} exchanges"
        print(f"    {pair.source} -> {pair.target}: {told}")
    found["together"] = {key: found["norms"][key] + found["transfer"][key] for key in found["norms"]}
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(json.dumps({"diagnosis": found}))


def made(classes: int, width: int, examples: int, seed: int) -> Sample:
    """A domain whose spectrum decays, as a backbone's features have it, and labels of a head of its own."""
    drawn = generator(seed, "benchmark")
    common = generator(0, "benchmark", "common")
    head = torch.randn(classes, width, dtype=torch.float64, generator=common) / width**0.5
    scales = torch.arange(1, width, dtype=torch.float64) ** -0.5
    features = torch.randn(examples, width - 1, dtype=torch.float64, generator=drawn) * scales
    features += 0.3 * torch.randn(width - 1, dtype=torch.float64, generator=drawn) * scales
    features = torch.cat([features, torch.ones(examples, 1, dtype=torch.float64)], 1)
    own = head + 0.3 * torch.randn(classes, width, dtype=torch.float64, generator=drawn)
    labels = torch.multinomial(probabilities(features @ own.T), 1, generator=drawn)[:, 0]
    return Sample(f"d{seed}", features, labels, head, classes)


def rates(sample: Sample) -> list[dict[str, float | str]]:
    """Products with Hessians, and answers at heads, beside bare matrix products of the same shapes."""
    outputs, width = sample.head.shape
    found: list[dict[str, float | str]] = []
    for count in (8, 24):
        along = torch.randn(count, outputs, width, dtype=torch.float64, generator=generator(0, "along"))
        flat, back = along.view(-1, width), torch.ones(len(sample), count * outputs, dtype=torch.float64)

        def bare(flat: torch.Tensor = flat, back: torch.Tensor = back) -> object:
            return sample.features @ flat.T, back.T @ sample.features

        work = 4 * len(sample) * width * outputs * count / 1e9
        for title, call in (("products", sample.directions), ("heads", sample.heads)):
            known, own = least(bare), least(partial(call, along))
            print(
                f"{title}, {count} at once: {work / own:.1f} GFLOP/s, {100 * known / own:.0f} % of bare products' rate"
            )
            found.append({"what": title, "at_once": count, "gflops": work / own, "share": known / own})
    return found


def least(call: Callable[[], object], times: int = 7) -> float:
    """The least of some calls, in seconds of processors, which other work on the machine hardly lengthens."""
    seconds = []
    for _ in range(times):
        begun = time.process_time()
        call()
        seconds.append(time.process_time() - begun)
    return min(seconds)


def timed(title: str, call: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What a call gives, and its seconds: of the clock, and of processors."""
    clock, busy = time.perf_counter(), time.process_time()
    found = call()
    seconds = {"seconds": time.perf_counter() - clock, "processor_seconds": time.process_time() - busy}
    print(f"{title}: {seconds['seconds']:.1f} s, {seconds['processor_seconds']:.1f} s of processors", flush=True)
    return found, seconds


if __name__ == "__main__":
    main()
