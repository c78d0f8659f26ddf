"""How long a diagnosis takes from features that are there: the pooled attack, all pairs' norms, and the products' rate.

python benchmarks/diagnosis.py [--classes 7] [--width 2048] [--domains 4] [--examples 2500] [--threads 2]
"""

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import torch

from fedha.diagnosis.curvature import norms
from fedha.diagnosis.party import pooled
from fedha.diagnosis.sample import Sample, probabilities
from fedha.diagnosis.transfer import both_ways
from fedha.randomness import generator

LOGITS = (0.1, 0.3, 1.0, 3.0)


def main() -> None:
    """Print what was measured."""
    given = argparse.ArgumentParser()
    for name, value in (("classes", 7), ("width", 2048), ("domains", 4), ("examples", 2500), ("threads", 2)):
        given.add_argument(f"--{name}", type=int, default=value)
    asked = given.parse_args()
    torch.set_num_threads(asked.threads)
    samples = [made(asked.classes, asked.width + 1, asked.examples, place) for place in range(asked.domains)]
    head = samples[0].head
    print(f"{asked.domains} domains of {asked.examples} examples, head {tuple(head.shape)}, {asked.threads} threads")
    rates(samples[0])
    parties = [timed("size of a domain's features", one.party) for one in samples]
    begun, busy = time.perf_counter(), time.process_time()
    found = timed("norms of all pairs", lambda: norms(parties, (head.shape[0], head.shape[1])))
    for one in found[:3]:
        print(
            f"    {one.first} {one.second}: [{one.lower:.4g}, {one.upper:.4g}] by {one.rule}, {one.exchanges} exchanges"
        )
    scale = (sum(one.sizes.mean_square for one in parties[:-1]) / (len(parties) - 1)) ** 0.5
    source = pooled(parties[:-1], "sources")
    radii = [one / scale for one in LOGITS]
    pairs = timed("attack, minima and bounds, both ways", lambda: both_ways(source, parties[-1], head, radii, parties))
    for one in pairs:
        print(
            f"    {one.source} -> {one.target}: {one.measured:.4f} <= {one.bound:.4f}, {one.climb.exchanges} exchanges"
        )
    print(f"together {time.perf_counter() - begun:.1f} s, {time.process_time() - busy:.1f} s of processors")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MB")


def made(classes: int, width: int, examples: int, seed: int) -> Sample:
    """A domain with a spectrum that decays, as a backbone's features have, and labels of a head of its own."""
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


def rates(sample: Sample) -> None:
    """Products with Hessians, and answers at heads, beside bare matrix products of the same shapes."""
    outputs, width = sample.head.shape
    for count in (8, 24):
        along = torch.randn(count, outputs, width, dtype=torch.float64)
        flat, back = along.view(-1, width), torch.randn(len(sample), count * outputs, dtype=torch.float64)
        bare = best(lambda flat=flat, back=back: (sample.features @ flat.T, back.T @ sample.features))
        for title, call in (("products", sample.directions), ("heads", sample.heads)):
            own = best(lambda call=call, along=along: call(along))
            work = 4 * len(sample) * width * outputs * count / 1e9
            print(
                f"{title}, {count} at once: {work / own:.1f} GFLOP/s, {100 * bare / own:.0f} % of a bare product's rate"
            )


def best(call: Callable[[], object], times: int = 7) -> float:
    """The shortest of some calls, in seconds of processors, which other work on the machine does not lengthen."""
    seconds = []
    for _ in range(times):
        begun = time.process_time()
        call()
        seconds.append(time.process_time() - begun)
    return min(seconds)


def timed(title: str, call: Callable[[], Any]) -> Any:
    """Say how long a call takes."""
    begun, busy = time.perf_counter(), time.process_time()
    found = call()
    print(f"{title}: {time.perf_counter() - begun:.2f} s, {time.process_time() - busy:.2f} s of processors", flush=True)
    return found


if __name__ == "__main__":
    main()
