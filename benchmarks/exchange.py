"""What an exchange costs when the clients do nothing: fedha's engines against Flower's own simulation.

    python benchmarks/exchange.py [--quick] [--workers W] [--sides inline ray flower]

One exchange sends 1,000 floats to every client and waits for them to come back: `Grid.send_and_receive`, one content
for all, a message a client, the same trivial ClientApp on every side. Each side is a process of its own, started and
warmed up before; the sides take turns in blocks of exchanges, so that all see the same load. Seconds are medians over
all blocks, wall clock; CPU is that of the whole process tree, polling included.
"""

import argparse
from collections.abc import Sequence

from sides.driving import Side, Summary, alternate, running, say
from sides.processes import cores, machine

PEER = "flower"
SIDES = ("inline", "ray", PEER)


def start(name: str, clients: int, workers: int) -> Side:
    """One side for this many clients."""
    size = ("--clients", clients, "--workers", workers)
    if name == PEER:
        return Side("flower", "exchange", *size)
    return Side("ours", "exchange", "--engine", name, *size)


def measure(names: Sequence[str], clients: int, workers: int, quick: bool) -> dict[str, Summary]:
    """Every side at one number of clients."""
    rounds = 2 if quick else max(2, min(20, 2000 // clients))
    with running({name: start(name, clients, workers) for name in names}) as sides:
        return alternate(sides, dict.fromkeys(sides, rounds), blocks=1 if quick else 5)


def row(clients: int, seen: dict[str, Summary]) -> str:
    """Milliseconds, CPU milliseconds, and times faster than the peer."""
    text = f"{clients:>7}"
    for name, one in seen.items():
        text += f"{one.seconds * 1e3:12.2f} {one.cpu_seconds * 1e3:8.1f}"
        if name != PEER and PEER in seen:
            text += f" {seen[PEER].seconds / one.seconds:7.1f}x"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two clients, a few exchanges")
    parser.add_argument("--workers", type=int, default=cores(), help="worker processes of ray and of Flower")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    given = parser.parse_args()
    print(f"{machine()}; {given.workers} workers, one thread each")
    print("milliseconds of an exchange, of CPU, and how many times faster than Flower's simulation")
    print(f"{'clients':>7}" + "".join(f"{name:>{21 if name == PEER else 30}}" for name in given.sides))
    found = {}
    for clients in (2,) if given.quick else (2, 10, 100, 1000):
        found[clients] = measure(given.sides, clients, given.workers, given.quick)
        print(row(clients, found[clients]), flush=True)
    say("exchange", found)


if __name__ == "__main__":
    main()
