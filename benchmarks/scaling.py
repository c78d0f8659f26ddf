"""Weak scaling of the Ray engine over workers, the pieces of a round, and what they say about larger machines.

    python benchmarks/scaling.py [--quick] [--gigabits 10] [--card-rate CLIENTS_PER_SECOND]

Weak scaling: the run of `cohort.py` on random numbers, so many clients for each worker, with one worker and with more;
the efficiency is the first's seconds of a round over the second's. The model of a round, all in seconds:

    put(M) + W * call + H * M / network + c / (W * rate) + W * (take(M) + M / network where H > 0) + c * client

M the model in megabytes, W workers on H other machines, c clients a round, `rate` clients a second of one worker. All
but the network and the rate of a GPU is measured here; those two are arguments, named where they are used. The rate is
taken from the run with one worker, handing over its sum included, so that row agrees by construction; the other row
tests the model. The last two terms are the driver's own, which bound what any number of workers can reach: it reads and
adds each worker's sum, and looks at each client's numbers. The model lets it wait for the workers' end; a driver with a
core of its own starts before.
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sides import federation
from sides.driving import Side, alternate, running, say
from sides.pieces import Pieces, measure_apart
from sides.processes import cores, machine

MODEL = 4e-6 * sum(one.numel() for one in federation.network().parameters())  # megabytes


@dataclass(frozen=True)
class Cluster:
    """Where a round runs, as the model sees it.

    Attributes:
        workers: W, in all.
        machines: H, besides the driver's.
        rate: Clients a second of one worker.
        network: Megabytes a second that the driver's machine can send, or receive.
    """

    workers: int
    machines: int
    rate: float
    network: float


def driver_seconds(pieces: Pieces, cluster: Cluster, clients: int) -> float:
    """What a round costs the driver: the workers' sums come, over the network from other machines, and are added."""
    a_sum = pieces.take.at(MODEL) + (MODEL / cluster.network if cluster.machines else 0.0)
    return cluster.workers * a_sum + clients * pieces.client


def round_seconds(pieces: Pieces, cluster: Cluster, clients: int) -> float:
    """The model's seconds of a round."""
    broadcast = pieces.put.at(MODEL) + cluster.machines * MODEL / cluster.network
    calls = cluster.workers * pieces.call
    return broadcast + calls + clients / (cluster.workers * cluster.rate) + driver_seconds(pieces, cluster, clients)


def weak_scaling(each: int, workers: int, quick: bool, engine: str) -> dict[int, float]:
    """Measured seconds of a round with one worker and with more, `each` clients a worker."""
    population = max(federation.DOMAINS, -(-each * workers // federation.DOMAINS) * federation.DOMAINS)
    with tempfile.TemporaryDirectory(prefix="scaling-") as data:
        federation.write(Path(data), population, None)
        sides = {
            str(count): Side(
                "ours", "cohort", "--engine", engine, "--data", data, "--cohort", each * count, "--workers", count
            )
            for count in (1, workers)
        }
        with running(sides):
            seen = alternate(sides, dict.fromkeys(sides, 2 if quick else 5), blocks=1 if quick else 7)
    return {int(name): one.seconds for name, one in seen.items()}


def fitted_rate(pieces: Pieces, seconds: float, clients: int) -> float:
    """The rate of one worker at which the model gives the measured seconds of one worker."""
    rest = round_seconds(pieces, Cluster(1, 0, float("inf"), 1.0), clients)
    if rest >= seconds:
        raise SystemExit(f"the pieces alone take {rest:.4f} s, longer than the measured round of {seconds:.4f} s")
    return clients / (seconds - rest)


def predict(pieces: Pieces, title: str, cluster: Cluster) -> None:
    """A line a cohort: seconds, clients a second, and the share of the time that is the driver's."""
    print(f"\n{title}: {cluster.workers} workers; the driver alone allows {1 / pieces.client:,.0f} clients/s")
    for clients in (100, 1_000, 10_000):
        seconds = round_seconds(pieces, cluster, clients)
        share = driver_seconds(pieces, cluster, clients) / seconds
        print(f"  cohort {clients:>6,}: {seconds:8.3f} s, {clients / seconds:9,.0f} clients/s, driver {share:.0%}")


def show(pieces: Pieces) -> None:
    """The coefficients, in microseconds."""
    print(f"\nthe pieces, in microseconds; the model has {MODEL:.3f} MB")
    print(f"  actor call, there and back {pieces.call * 1e6:9.0f}")
    print(f"  driver: a client's numbers {pieces.client * 1e6:9.0f}")
    titles = {
        "put": "driver: put the model",
        "reply": "worker: put its sum",
        "take": "driver: take and add one",
    }
    for name, title in titles.items():
        piece = getattr(pieces, name)
        print(f"  {title:26}{piece.fixed * 1e6:10.0f} + {piece.megabyte * 1e6:.0f} a megabyte")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="10 clients a worker, a few rounds")
    parser.add_argument("--engine", choices=["ray", "inline"], default="ray")
    parser.add_argument("--workers", type=int, default=min(2, cores()), help="the larger number of workers")
    parser.add_argument("--gigabits", type=float, default=10.0, help="network of the cluster, an assumption")
    parser.add_argument("--card-rate", type=float, help="clients/s of one GPU, from a measurement elsewhere")
    given = parser.parse_args()
    each = 10 if given.quick else 100
    print(f"{machine()}; one thread a worker, {each} clients each")
    pieces = measure_apart(5 if given.quick else 50)
    show(pieces)
    seen = weak_scaling(each, given.workers, given.quick, given.engine)
    rate = fitted_rate(pieces, seen[1], each)
    print(f"\nweak scaling; one worker trains {rate:,.0f} clients/s")
    for count, seconds in seen.items():
        model = round_seconds(pieces, Cluster(count, 0, rate, 1.0), each * count)
        print(f"  {count} workers: {seconds:.4f} s, efficiency {seen[1] / seconds:.0%}; the model says {model:.4f} s")
    network = given.gigabits * 125
    predict(pieces, f"10 machines with 16 cores as here, {given.gigabits:g} Gbit/s", Cluster(160, 10, rate, network))
    if given.card_rate:
        predict(pieces, f"8 GPUs at {given.card_rate:,.0f} clients/s", Cluster(8, 0, given.card_rate, network))
    else:
        bound = 1 / (8 * pieces.client)
        print(f"\n8 GPUs: the driver is the limit from {bound:,.0f} clients/s a card on; --card-rate gives the rounds")
    say("scaling", {"seconds": seen, "rate": rate, "pieces": pieces})


if __name__ == "__main__":
    main()
