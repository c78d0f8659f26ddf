"""A run's privacy as the server tells it: epsilon after each round, when the budget ends it, and what that promises."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fedha.cohort import Member
from fedha.errors import FedhaError
from fedha.exchange import Task
from fedha.federation import Server
from fedha.privacy.accounting import spent
from fedha.privacy.ledger import Ledger
from fedha.privacy.shape import delta_of
from fedha.privacy.spending import FEDERATION, Spending

FEW_CLIENTS = 50  # below, protecting clients as a whole drowns the model or hides nothing

_SAMPLING = {
    "whole": "every sum is over everybody: no amplification",
    "poisson": "each step draws each example by its own coin: amplified",
    "shuffled": "each pass is cut into batches and counts as one release: no amplification is claimed",
    "without_replacement": "each round draws its clients uniformly, without replacement, by a secret of the server's: "
    "amplified against who sees the models, and against one participant, who knows its own rounds; not against several "
    "of them together, nor who reads the server's files, which tell who took part",
    "unamplified": "clients are drawn in a way without a theorem, or one that others know: no amplification is claimed",
}


COMPOSED = "all rounds of this run; other runs over the same examples add up"
"""Over what an epsilon composes, in words."""


def epsilons(task: Task, ledgers: Mapping[str, Ledger]) -> dict[str, float]:
    """What each ledger amounts to at its delta.

    Raises:
        FedhaError: The delta is too large for a client, or dp-accounting is missing.
    """
    return {name: spent(one, delta_of(task.privacy, one.population)).epsilon for name, one in ledgers.items()}


def round_numbers(server: Server) -> dict[str, Any]:
    """What a round's record says of privacy; nothing where nothing is protected."""
    task, spending = server.task, server.spending
    if task.privacy.protect == "nothing":
        return {}
    held_out = epsilons(task, spending.held_out)
    return {
        "epsilon": epsilons(task, spending.train),
        **({"epsilon_held_out": held_out} if held_out else {}),
    }


def ends_before(server: Server, round: int, members: Sequence[Member]) -> str:
    """Why this round is not begun: a sentence with whose budget it would pass, or "".

    Args:
        server: After the round before.
        round: From 1.
        members: All clients.
    """
    task = server.task
    if task.privacy.protect == "nothing" or task.privacy.max_epsilon is None:
        return ""
    return _over(task, after_round(server, round, members).train, f"round {round}")


def after_round(server: Server, round: int, members: Sequence[Member]) -> Spending:
    """What will have been released when this round, the next one, has been asked for."""
    task, ordered = server.task, sorted(members, key=lambda one: one.client_id)
    return server.spending.round(task, server.drawn(round, ordered), ordered, hidden=bool(server.secret))


def may_evaluate(server: Server) -> bool:
    """Whether clients may be asked to evaluate once more: never, where that is covered by no noise or no budget."""
    task = server.task
    if task.privacy.protect != "examples":
        return True
    if task.privacy.evaluation_noise is None:
        return False
    return not _over(task, server.spending.evaluation(task, server.members).held_out, "one more evaluation")


def report(server: Server, stopped: str) -> dict[str, Any]:
    """What results.json says of privacy: the numbers, what they promise, and what they do not.

    Args:
        server: After the last round.
        stopped: Why training ended before its time, or "".
    """
    task, spending = server.task, server.spending
    privacy = task.privacy
    if privacy.protect == "nothing":
        return {}
    ledgers = {**spending.train}
    found: dict[str, Any] = {
        "protect": privacy.protect,
        "noise_multiplier": privacy.noise_multiplier,
        "epsilon": epsilons(task, spending.train),
        "delta": {name: delta_of(privacy, one.population) for name, one in ledgers.items()},
        "population": {name: one.population for name, one in ledgers.items()},
        "relation": " / ".join(dict.fromkeys(one.relation for one in ledgers.values())),
        "sampling": _sampling(server, ledgers),
        "noise": _noise(server),
        "adversary": adversary(privacy.protect),
        "composed": COMPOSED,
        "not_covered": _not_covered(server),
        "warnings": _warnings(server),
    }
    if spending.held_out:
        found["epsilon_held_out"] = epsilons(task, spending.held_out)
    if privacy.max_epsilon is not None:
        found["max_epsilon"] = privacy.max_epsilon
    return {**found, **({"stopped": stopped} if stopped else {})}


def adversary(protect: str) -> str:
    """Against whom an epsilon holds, in words.

    Args:
        protect: As in `PrivacyConfig`: clients or examples.
    """
    seen = "models" if protect == "clients" else "client's answers"
    return f"an honest but curious server, or whoever else sees the {seen} of all rounds"


def check_first(server: Server, members: Sequence[Member]) -> None:
    """Raise where not even the first round fits the budget, or its epsilon cannot be told.

    Raises:
        FedhaError: Says what would.
    """
    task = server.task
    if task.privacy.protect == "nothing":
        return
    if why := ends_before(server, 1, members):
        raise FedhaError(
            f"{why}; raise privacy.max_epsilon or privacy.noise_multiplier (`fedha privacy plan` says how far)"
        )
    ordered = sorted(members, key=lambda one: one.client_id)
    epsilons(task, Spending().round(task, ordered, ordered).train)


def _over(task: Task, ledgers: Mapping[str, Ledger], what: str) -> str:
    limit = task.privacy.max_epsilon
    if limit is None:
        return ""
    worst = max(epsilons(task, ledgers).items(), key=lambda one: one[1], default=("", 0.0))
    if worst[1] <= limit:
        return ""
    whose = "the federation" if worst[0] == FEDERATION else f"client {worst[0]}"
    return f"{what} would spend epsilon {worst[1]:.4g} of {whose} and privacy.max_epsilon is {limit:g}"


def _sampling(server: Server, ledgers: Mapping[str, Ledger]) -> list[str]:
    kinds = {release.sampling for one in ledgers.values() for release, _ in one.entries}
    simulated = "without_replacement" in kinds and server.site.randomness == "seeded"
    told = ["this simulation makes the server's secret from the run's seed, so who knows the seed knows who was drawn"]
    return [*(_SAMPLING[kind] for kind in _SAMPLING if kind in kinds), *(told if simulated else [])]


def _noise(server: Server) -> str:
    whole = server.task.privacy.protect == "clients"
    kinds: set[str] = {server.site.randomness} if whole else {one.noise for one in server.members}
    if kinds == {"cryptographic"}:
        return "cryptographic: keys from each machine's operating system, known to nobody else"
    if kinds <= {"seeded"}:
        return "seeded: drawn from the run's seed, which repeats the run; it protects from nobody who knows the seed"
    return "mixed: some clients' noise can be repeated from the run's seed, which protects from nobody who knows it"


def _not_covered(server: Server) -> list[str]:
    if server.task.privacy.protect == "clients":
        return [
            "the server, which sees each client's answers before the noise",
            "the clients' own losses and accuracies, in metrics.jsonl and in this report",
            "single rounds' answers, to whoever else can read the network",
        ]
    covered = server.task.privacy.evaluation_noise is not None
    return [
        "the numbers of examples, the names of clients and domains, and how long an answer takes",
        "settings that were chosen by looking at the data: clip, scales, learning rates, the architecture",
        "several runs over the same examples: their epsilons add up",
        *([] if covered else ["held-out accuracy of the sources: it is not sent, so there is none here"]),
        "the unseen target's examples, which only the server has",
    ]


def _warnings(server: Server) -> list[str]:
    if server.task.privacy.protect != "clients":
        return []
    found, clients = [], len(server.members)
    if clients < FEW_CLIENTS:
        found.append(
            f"{clients} clients are few: noise that hides one of them is as large as its whole answer; protect "
            "examples, or train with many more clients"
        )
    if max(Counter(one.domain for one in server.members).values(), default=0) == 1:
        found.append("each client is a domain, so what is hidden is the domain that was to be learnt from")
    return found
