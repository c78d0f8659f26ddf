"""Closed forms against the published way of computing the same penalty: time and memory of a whole step.

    python benchmarks/closed_forms.py [--quick]

A step is risk + gradient term + second-order term over three domains with constant references, forward and backward,
down to the features (a backbone's own cost, the same on both sides, is left out). Published (Hemati et al., ICCV 2023):
an nn.Linear head, autograd.grad with create_graph for the gradient, HGP as norm times gradient of the norm, Hutchinson
as 300 probes one after the other, each with its own double backward. Before any timing both sides must agree.

Time is CPU time of one thread, medians of alternating runs: other processes cost cache misses but no waiting.
Memory is the peak of what torch's allocator holds beyond the inputs, from torch.profiler: the same on each run, where a
process's resident set also counts the interpreter and freed pages.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from fedha import cross_entropy, sketches, statistics

EXAMPLES, WIDTH, DOMAINS, PROBES = 32, 2048, 3, 300


@dataclass(frozen=True)
class Problem:
    """Heads and domains of both sides: the same numbers, the bias once as a column and once on its own."""

    head: Tensor
    features: list[Tensor]
    labels: list[Tensor]
    reference: Tensor
    weight: Tensor
    bias: Tensor
    bare_features: list[Tensor]

    def leaves(self) -> list[Tensor]:
        return [self.head, *self.features, self.weight, self.bias, *self.bare_features]

    def forget(self) -> None:
        for leaf in self.leaves():
            leaf.grad = None


def make_problem(classes: int) -> Problem:
    draws = torch.Generator().manual_seed(classes)
    head = 0.02 * torch.randn(classes, WIDTH, generator=draws)
    features = [torch.randn(EXAMPLES, WIDTH, generator=draws) for _ in range(DOMAINS)]
    for one in features:
        one[:, -1] = 1
    labels = [torch.randint(0, classes, (EXAMPLES,), generator=draws) for _ in range(DOMAINS)]
    return Problem(
        head.clone().requires_grad_(),
        [one.clone().requires_grad_() for one in features],
        labels,
        0.01 * torch.randn(classes, WIDTH, generator=draws),
        head[:, :-1].clone().requires_grad_(),
        head[:, -1].clone().requires_grad_(),
        [one[:, :-1].clone().requires_grad_() for one in features],
    )


def bias_last(matrix: Tensor) -> Tensor:
    """[C, D] in the order of nn.Linear's flattened weight and bias."""
    return torch.cat([matrix[:, :-1].flatten(), matrix[:, -1]])


# The closed forms


def closed_step(problem: Problem, second: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    losses = []
    for features, labels in zip(problem.features, problem.labels, strict=True):
        client = (problem.head, features, labels)
        with cross_entropy.shared():
            first_term = (statistics.gradient(*client) - problem.reference).square().sum()
            second_term = (second(*client) - problem.reference).square().sum()
            losses.append(statistics.risk(*client) + first_term + second_term)
    torch.stack(losses).sum().backward()


def batched_probes(head: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    signs = sketches.draw_signs(0, 1, PROBES, head.shape, "client")
    return sketches.hutchinson_diagonal(head, features, labels, signs)


# The published way


def published_step(problem: Problem, second: Callable[[list[Tensor], Tensor, list[Tensor]], Tensor]) -> None:
    head, reference, losses = [problem.weight, problem.bias], bias_last(problem.reference), []
    for features, labels in zip(problem.bare_features, problem.labels, strict=True):
        logits = functional.linear(features, *head)
        risk = functional.cross_entropy(logits, labels)
        again = functional.cross_entropy(logits, labels)
        slopes = list(torch.autograd.grad(again, head, create_graph=True, retain_graph=True))
        flat = flatten(slopes)
        penalty = (flat - reference).pow(2).sum() + (second(slopes, flat, head) - reference).pow(2).sum()
        losses.append(risk + penalty)
    torch.stack(losses).sum().backward()


def flatten(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def norm_trick(slopes: list[Tensor], flat: Tensor, head: list[Tensor]) -> Tensor:
    norm = torch.norm(torch.stack([torch.norm(slope + 1e-16, p=2) for slope in slopes]), p=2)
    return norm * flatten(torch.autograd.grad(norm, head, create_graph=True, retain_graph=True))


def sequential_probes(slopes: list[Tensor], flat: Tensor, head: list[Tensor]) -> Tensor:
    return probe_with((2 * torch.randint_like(flat, high=2) - 1 for _ in range(PROBES)), flat, head)


def probe_with(signs: Iterable[Tensor], flat: Tensor, head: list[Tensor]) -> Tensor:
    estimates = []
    for sign in signs:
        along = torch.autograd.grad(torch.dot(flat, sign), head, create_graph=True, retain_graph=True)
        estimates.append(sign * flatten(along))
    return sum(estimates) / len(estimates)


# Both sides must agree


def check_agreement(problem: Problem, probes: int = 10) -> float:
    """The largest difference between the two sides' gradients in the features, relative to the largest entry."""
    signs = sketches.draw_signs(0, 1, probes, problem.head.shape)
    pairs: list[tuple[Callable[..., Tensor], Callable[..., Tensor]]] = [
        (statistics.gradient_hessian_product, norm_trick),
        (
            lambda *client: sketches.hutchinson_diagonal(*client, signs),
            lambda slopes, flat, head: probe_with([bias_last(sign) for sign in signs], flat, head),
        ),
    ]
    worst = 0.0
    for ours, theirs in pairs:
        problem.forget()
        closed_step(problem, ours)
        published_step(problem, theirs)
        for own, bare in zip(problem.features, problem.bare_features, strict=True):
            difference = (own.grad[:, :-1] - bare.grad).abs().max() / bare.grad.abs().max()
            worst = max(worst, float(difference))
    problem.forget()
    if worst > 1e-3:
        raise SystemExit(f"the two ways differ by {worst:.1e} of the largest gradient entry; nothing to compare")
    return worst


# Measuring


def median_seconds(
    problem: Problem, steps: list[Callable[[], object]], repetitions: list[int], rounds: int
) -> list[float]:
    """Median CPU seconds of each step; a round runs each as often as `repetitions` says: all see the same load."""
    seconds: list[list[float]] = [[] for _ in steps]
    for _ in range(rounds):
        for step, repeat, own in zip(steps, repetitions, seconds, strict=True):
            for _ in range(repeat):
                problem.forget()
                start = time.process_time()
                step()
                own.append(time.process_time() - start)
    return [sorted(own)[len(own) // 2] for own in seconds]


def peak_bytes(problem: Problem, step: Callable[[], None]) -> int:
    """The most bytes of tensors that a step held at once, beyond those that were there before."""
    problem.forget()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        record.export_chrome_trace(str(path))
        events = [one for one in json.loads(path.read_text())["traceEvents"] if one.get("name") == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda one: one["ts"]):
        held += event["args"]["Bytes"]
        most = max(most, held)
    return most


def rates() -> tuple[float, float]:
    """This thread's best float32 operations a second in a matrix product, and bytes a second in a copy."""
    square, block = torch.randn(1024, 1024), torch.empty(2**26, dtype=torch.uint8)
    target = torch.empty_like(block)

    def best(work: Callable[[], object]) -> float:
        seconds = []
        for _ in range(10):
            start = time.process_time()
            work()
            seconds.append(time.process_time() - start)
        return min(seconds)

    return 2 * 1024**3 / best(lambda: square @ square), 2 * 2**26 / best(lambda: target.copy_(block))


def limit(classes: int, seconds: float) -> str:
    """How far the exact diagonal's step is from what its products and its least traffic would take."""
    problem = make_problem(classes)
    with FlopCounterMode(display=False) as counter:
        closed_step(problem, statistics.hessian_diagonal)
    operations = counter.get_total_flops()
    # features read forward and backward, their gradient written; head and references likewise, once for all domains
    moved = 4 * (3 * DOMAINS * EXAMPLES * WIDTH + 4 * classes * WIDTH)
    rate, bandwidth = rates()
    least = max(operations / rate, moved / bandwidth)
    products = operations / (2 * DOMAINS * EXAMPLES * classes * WIDTH)
    return (
        f"C = {classes}: {operations / 1e6:.0f} MFLOP ({products:.0f} products n x C x D a domain), "
        f"{operations / rate * 1e3:.2f} ms at {rate / 1e9:.0f} GFLOP/s; at least {moved / 1e6:.1f} MB, "
        f"{moved / bandwidth * 1e3:.2f} ms at {bandwidth / 1e9:.0f} GB/s; "
        f"the step takes {seconds * 1e3:.2f} ms, {seconds / least:.1f} times the larger"
    )


OURS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "exact diagonal": statistics.hessian_diagonal,
    "300 probes, one batch": batched_probes,
    "HGP, closed form": statistics.gradient_hessian_product,
}
PUBLISHED = {
    "exact diagonal": ("300 sequential probes", sequential_probes),
    "300 probes, one batch": ("300 sequential probes", sequential_probes),
    "HGP, closed form": ("norm trick, double backward", norm_trick),
}


def compare(classes: int, quick: bool) -> float:
    """Print the rows of one number of classes; return the exact diagonal's seconds."""
    problem = make_problem(classes)
    print(f"\nC = {classes}: both ways agree to {check_agreement(problem):.0e} of the largest gradient entry")
    print(f"{'':24}{'published':28}{'ms':>20}{'ratio':>9}   {'peak MB':>18}{'ratio':>9}")

    def ours(name: str) -> Callable[[], None]:
        return partial(closed_step, problem, OURS[name])

    def theirs(name: str) -> Callable[[], None]:
        return partial(published_step, problem, PUBLISHED[name][1])

    rounds = 1 if quick or classes > 7 else 5
    diagonal, batch, hgp = OURS
    for name in (diagonal, batch, hgp):
        ours(name)()
    theirs(hgp)()
    problem.forget()
    times = dict(
        zip(
            ("diagonal", "batch", "sequential"),
            median_seconds(problem, [ours(diagonal), ours(batch), theirs(diagonal)], [20, 2, 1], rounds),
            strict=True,
        )
    )
    own_hgp, their_hgp = median_seconds(problem, [ours(hgp), theirs(hgp)], [10, 10], 3 if quick else 20)
    sequential_peak = peak_bytes(problem, theirs(diagonal))
    rows = [
        (diagonal, times["diagonal"], times["sequential"], sequential_peak),
        (batch, times["batch"], times["sequential"], sequential_peak),
        (hgp, own_hgp, their_hgp, peak_bytes(problem, theirs(hgp))),
    ]
    for name, own, their, their_peak in rows:
        own_peak = peak_bytes(problem, ours(name))
        print(
            f"{name:24}{PUBLISHED[name][0]:28}{own * 1e3:9.2f} / {their * 1e3:8.2f}{their / own:8.1f}x   "
            f"{own_peak / 1e6:7.1f} / {their_peak / 1e6:8.1f}{their_peak / own_peak:8.1f}x"
        )
    return times["diagonal"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="seven classes only, fewer repetitions")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, one thread; n = {EXAMPLES}, D = {WIDTH}, {DOMAINS} domains; fedha / published")
    seconds = {classes: compare(classes, quick) for classes in ((7,) if quick else (7, 65))}
    print("\nHow far the exact diagonal's step is from the limit:")
    for classes, own in seconds.items():
        print(limit(classes, own))


if __name__ == "__main__":
    main()
