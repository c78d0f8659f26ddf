"""Secure aggregation against the plain mean, sums and whole rounds: CPU seconds, and the stream cipher's limit.

    python benchmarks/secure_aggregation.py [--quick]

First, one secure sum: 3, 10 and 100 clients with an update of 10,000 or a million float32 parameters each, every
step of every client and of the server in this process, with the P-384 identities that SuperNodes have; also with 32-bit
words, and with one client lost after its keys were shared. Before any timing the secure mean must be the plain one to
the fixed-point step.

Time is CPU time of one thread, medians over rounds; a client's is the mean over the clients of a round and includes the
encoding and the digest of a model of the update's size. The plain mean is `fedha.reference.weighted_mean`, the server's
work without protection, on the same tensors. The limit is what a client's masks (one for each other client, one of its
own) take at the measured rate of AES-256-CTR.

Then whole rounds of training, plain and secure in turns, over the inline grid: 3 clients, a model of a million
parameters, every message packed and unpacked. Everything runs in this process, so the CPU time that a secure round
takes more than a plain one is that of all clients and the server together; the figure is that over the clients.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, CipherAlgorithm, algorithms, modes
from flwr.app import ConfigRecord
from sides.driving import say
from sides.processes import machine
from torch import Tensor

from fedha import numerics
from fedha.config import ModelConfig, TrainingConfig, parse
from fedha.data.domain import Domain, Examples
from fedha.engine.inline import InlineGrid
from fedha.flower import HessianAlignment, client_app
from fedha.flower.secure_client import simulated_party
from fedha.measurement import shapes
from fedha.models import build
from fedha.piggyback import riders
from fedha.privacy.secure import rounds
from fedha.privacy.secure.encoding import decode, encode
from fedha.privacy.secure.identity import Identity
from fedha.privacy.secure.layout import make_layout
from fedha.privacy.secure.messages import MaskedInput
from fedha.privacy.secure.packing import pack
from fedha.privacy.secure.question import question
from fedha.privacy.secure.session import make_session
from fedha.reference import weighted_mean

SIZES, COHORTS = (10_000, 1_000_000), (3, 10, 100)
DISTINCT = 3  # different updates in a round; others are the same again, to keep a hundred of them out of memory


@dataclass(frozen=True)
class Case:
    """One row."""

    clients: int
    parameters: int
    bits: int = 64
    lost: int = 0


@dataclass
class Spent:
    """CPU seconds and bytes of one round."""

    client: float = 0.0
    server: float = 0.0
    bytes_up: int = 0

    def call(self, who: int | None, step: Callable[..., Any], *arguments: Any) -> Any:
        start = time.process_time()
        result = step(*arguments)
        seconds = time.process_time() - start
        if who is None:
            self.server += seconds
            for message in arguments:
                self.bytes_up += message.words.nbytes if isinstance(message, MaskedInput) else len(pack(message))
        else:
            self.client += seconds
        return result


def one_round(case: Case, updates: list[dict[str, Tensor]], identities: Mapping[int, Identity]) -> Spent:
    """A secure sum, checked against the plain mean; client figures are of one client."""
    layout = make_layout({"update": (case.parameters,)}, case.clients, 64.0, case.bits)
    session = make_session(
        "benchmark", 1, "update", range(case.clients), layout, threshold=case.clients // 2 + 1, minimum=2
    )
    share, spent = 1 / case.clients, Spent()
    start = time.process_time()
    asked = [question(update) for update in updates]  # a model has the size of its update
    vectors = [encode(layout, update, share) for update in updates]
    encoding = (time.process_time() - start) / len(updates)
    words = {place: vectors[place % len(vectors)] for place in range(case.clients)}
    total, places = rounds.run(
        session, identities, words, asked[0], dict.fromkeys(range(case.lost), "mask"), spent.call
    )
    start = time.process_time()
    mean = decode(layout, total, len(places), share * len(places))["update"]
    spent.server += time.process_time() - start
    plain = sum(updates[place % len(updates)]["update"].double() for place in places) / len(places)
    bound = layout.slots[0].step / 2 / share + 1e-12
    if (apart := float((mean - plain).abs().max())) > bound:
        raise SystemExit(f"the secure and the plain mean are {apart:.1e} apart; nothing to compare")
    spent.client = spent.client / case.clients + encoding
    spent.bytes_up //= case.clients
    return spent


def plain_seconds(case: Case, updates: list[dict[str, Tensor]]) -> float:
    """What the mean costs the server without protection."""
    start = time.process_time()
    weighted_mean((updates[place % len(updates)], 1 / case.clients) for place in range(case.clients))
    return time.process_time() - start


def stream_rate(algorithm: CipherAlgorithm, mode: modes.CTR | None) -> float:
    """Bytes a second of a key stream, in blocks as `fedha.privacy.secure.masks` takes them."""
    zeros, buffer, blocks = bytes(2**17), bytearray(2**17 + 15), 256
    best = float("inf")
    for _ in range(7):
        stream = Cipher(algorithm, mode).encryptor()
        start = time.process_time()
        for _ in range(blocks):
            stream.update_into(zeros, buffer)
        best = min(best, time.process_time() - start)
    return blocks * len(zeros) / best


def measure(case: Case, repeats: int, identities: Mapping[int, Identity], rate: float) -> dict[str, Any]:
    """One row's figures, printed."""
    draws = torch.Generator().manual_seed(case.parameters)
    updates = [{"update": torch.randn(case.parameters, generator=draws)} for _ in range(DISTINCT)]
    one_round(case, updates, identities)  # the first one also waits for memory
    spent, plain = [], []
    for _ in range(repeats):
        plain.append(plain_seconds(case, updates))
        spent.append(one_round(case, updates, identities))
    client, server, mean = (
        statistics.median(values) for values in ([one.client for one in spent], [one.server for one in spent], plain)
    )
    limit = case.clients * case.parameters * case.bits / 8 / rate
    print(
        f"{case.clients:8}{case.parameters:12,}{case.bits:6}{case.lost:6}{client * 1e3:12.2f}{limit * 1e3:9.2f}"
        f"{client / limit:8.1f}x{server * 1e3:12.2f}{mean * 1e3:11.3f}{server / mean:9.1f}x{spent[0].bytes_up:14,}",
        flush=True,
    )
    return {
        "clients": case.clients,
        "parameters": case.parameters,
        "bits": case.bits,
        "lost": case.lost,
        "client_seconds": client,
        "limit_seconds": limit,
        "server_seconds": server,
        "plain_seconds": mean,
        "bytes_up": spent[0].bytes_up,
    }


class Federation:
    """Three clients with a few examples and a large model, over the inline grid.

    Args:
        recipe: A row's name.
        hidden: The network's layers.
        secure: Whether its rounds have secure sums.
    """

    def __init__(self, recipe: str, hidden: list[int], secure: bool) -> None:
        config = parse({"privacy": {"secure_aggregation": secure}})
        model = build(ModelConfig(hidden=hidden), (256,), 10, 0)
        draws = torch.Generator().manual_seed(0)
        parts = [
            Examples(torch.randn(16, 256, generator=draws), torch.randint(0, 10, (16,), generator=draws))
            for _ in range(3)
        ]
        domains = [Domain(f"site {place}", part, part) for place, part in enumerate(parts)]
        app = client_app(
            lambda _: model,
            lambda context: domains[int(str(context.node_config["partition-id"]))],
            party=simulated_party(config),
        )
        self.grid, self.number = InlineGrid(app, 3), 0
        training = TrainingConfig(rounds=1000, optimizer="sgd")
        self.strategy = HessianAlignment(recipe, training, clients=3, privacy=config.privacy)
        self.strategy.begin(dict(model.named_parameters()))
        known = self.strategy.task.recipe
        self.strategy.expected = shapes(model, (256,), riders(known), known.probes)
        self.parameters = sum(value.numel() for value in model.parameters())

    def round(self) -> float:
        """CPU seconds of one round."""
        self.number += 1
        start = time.process_time()
        questions = self.strategy.configure_train(self.number, self.strategy.arrays, ConfigRecord(), self.grid)
        self.strategy.aggregate_train(self.number, self.grid.send_and_receive(list(questions)))
        return time.process_time() - start


def measure_rounds(recipe: str, hidden: list[int], repeats: int) -> dict[str, Any]:
    """A row of whole rounds, printed."""
    plain, secure = (Federation(recipe, hidden, on) for on in (False, True))
    for one in (plain, secure):
        one.round()  # the first one also makes the clients
    pairs = [(plain.round(), secure.round()) for _ in range(repeats)]
    apart = max(
        float((secure.strategy.begun().parameters[name] - value).abs().max())
        for name, value in plain.strategy.begun().parameters.items()
    )
    if not apart < 1e-5:
        raise SystemExit(f"secure and plain rounds of {recipe} end {apart:.1e} apart; nothing to compare")
    usual, more = (statistics.median(values) for values in zip(*pairs, strict=True))
    each = (more - usual) / 3
    print(
        f"{recipe:>8}{plain.parameters:12,}{usual * 1e3:12.1f}{more * 1e3:12.1f}{more / usual:9.1f}x{each * 1e3:14.1f}"
    )
    return {
        "recipe": recipe,
        "parameters": plain.parameters,
        "plain_seconds": usual,
        "secure_seconds": more,
        "each_seconds": each,
    }


def cases(quick: bool) -> list[Case]:
    if quick:
        return [Case(3, 10_000), Case(3, 10_000, 32), Case(4, 10_000, lost=1)]
    usual = [Case(clients, size) for size in SIZES for clients in COHORTS]
    return [
        *usual,
        Case(3, SIZES[1], 32),
        Case(10, SIZES[1], 32),
        Case(10, SIZES[1], lost=1),
        Case(10, SIZES[1], lost=2),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 and 4 clients with 10,000 parameters, one round")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    numerics.configure(1)
    print(f"{machine()}; one thread")
    rates = {
        "AES-256-CTR": stream_rate(algorithms.AES256(bytes(32)), modes.CTR(bytes(16))),
        "AES-128-CTR": stream_rate(algorithms.AES128(bytes(16)), modes.CTR(bytes(16))),
        "ChaCha20": stream_rate(algorithms.ChaCha20(bytes(32), bytes(16)), None),
    }
    print("key streams, GB/s: " + ", ".join(f"{name} {rate / 1e9:.2f}" for name, rate in rates.items()))
    print("\nCPU milliseconds of a round")
    print(
        f"{'clients':>8}{'parameters':>12}{'bits':>6}{'lost':>6}{'a client':>12}{'limit':>9}{'':>9}{'the server':>12}"
        f"{'plain mean':>11}{'':>10}{'bytes up each':>14}"
    )
    rows = cases(quick)
    keys = {
        place: Identity(ec.generate_private_key(ec.SECP384R1())) for place in range(max(one.clients for one in rows))
    }
    found = []
    for case in rows:
        repeats = 1 if quick or case.clients == max(COHORTS) else 9
        own = {place: keys[place] for place in range(case.clients)}
        found.append(measure(case, repeats, own, rates["AES-256-CTR"]))
    print("\nCPU milliseconds of a whole round of 3 clients in one process")
    print(f"{'recipe':>8}{'parameters':>12}{'plain':>12}{'secure':>12}{'':>10}{'more, a client':>14}")
    hidden, repeats = ([20], 2) if quick else ([1000, 740], 15)
    rounds_found = [measure_rounds(recipe, hidden, repeats) for recipe in ("erm", "hgp")]
    say("secure_aggregation", {"rates": rates, "rows": found, "rounds": rounds_found})


if __name__ == "__main__":
    main()
