"""The server's account of what its run has had released: a ledger for each client, or one for all of them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedha.cohort import Member
from fedha.errors import FedhaError, brief
from fedha.exchange import Task
from fedha.jsonfile import parse_json
from fedha.privacy.ledger import Ledger, Release, restore
from fedha.privacy.shape import answer_releases, cohort_round, evaluation_release, round_shape

FEDERATION = "federation"  # whose ledger it is, where clients are protected as a whole


@dataclass(frozen=True)
class Spending:
    """All ledgers of a run. What was asked for counts as released, whether or not an answer came.

    Attributes:
        train: Of the training examples, by client; where clients as a whole are protected, one of the federation.
        held_out: Of the held-out examples that were evaluated, by client.
    """

    train: Mapping[str, Ledger] = field(default_factory=dict)
    held_out: Mapping[str, Ledger] = field(default_factory=dict)

    def round(
        self, task: Task, cohort: Sequence[Member], members: Sequence[Member], *, hidden: bool = False
    ) -> "Spending":
        """After one more round.

        Args:
            task: The run's; nothing is counted where it protects nothing.
            cohort: The round's clients.
            members: All clients.
            hidden: Whether the server alone knows who is in the cohort.

        Raises:
            FedhaError: What the round sends cannot be accounted for.
        """
        privacy = task.privacy
        if privacy.protect == "nothing":
            return self
        if privacy.protect == "clients":
            known = self.train.get(FEDERATION, Ledger("client", len(members)))
            made = cohort_round(task.recipe, task.training, privacy, len(members), len(cohort), hidden=hidden)
            if len(members) != known.population:  # some have come or gone since: no sampling is claimed
                made = Release(made.noise_multiplier, "unamplified", min(len(cohort), known.population))
            return replace(self, train={FEDERATION: known.add([(made, 1)])})
        names, after = client_names(members), dict(self.train)
        for one in cohort:
            shape = round_shape(task.recipe, task.training, privacy, one.examples)
            after[names[one.client_id]] = _ledger(after, names[one.client_id], one.examples).add(shape)
        return replace(self, train=after)

    def evaluation(self, task: Task, members: Sequence[Member]) -> "Spending":
        """After one more evaluation of these clients' held-out examples, where that is a release."""
        if task.privacy.protect != "examples" or task.privacy.evaluation_noise is None:
            return self
        names, after = client_names(members), dict(self.held_out)
        for one in members:
            if one.held_out:
                name, release = names[one.client_id], evaluation_release(task.privacy, one.held_out)
                after[name] = _ledger(after, name, one.held_out).add([(release, 1)])
        return replace(self, held_out=after)

    def again(self, task: Task, kind: str, client_id: int, members: Sequence[Member]) -> "Spending":
        """After a client was asked once more: it may have answered before it was lost, and with other noise.

        Args:
            task: The run's.
            kind: The message type.
            client_id: The client's.
            members: All clients.
        """
        if task.privacy.protect != "examples" or kind not in ("query.measure", "train", "evaluate"):
            return self
        (one,) = (member for member in members if member.client_id == client_id)
        part, name = ("held_out" if kind == "evaluate" else "train"), client_names(members)[client_id]
        examples, ledgers = (one.held_out if part == "held_out" else one.examples), getattr(self, part)
        made = answer_releases(kind, task.training, task.privacy, examples)
        return replace(self, **{part: {**ledgers, name: _ledger(ledgers, name, examples).add(made)}})

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {
            part: {name: ledger.state() for name, ledger in ledgers.items()}
            for part, ledgers in (("train", self.train), ("held_out", self.held_out))
        }


def restore_spending(state: Mapping[str, Any] | None) -> Spending:
    """What `Spending.state` gave; nothing was spent where there is none.

    Raises:
        FedhaError: A ledger is damaged.
    """
    parts = {part: {name: restore(one) for name, one in ledgers.items()} for part, ledgers in (state or {}).items()}
    return Spending(parts.get("train", {}), parts.get("held_out", {}))


def read_spending(path: Path) -> Spending:
    """What a file holds of `Spending.state`.

    Raises:
        FedhaError: It cannot be read, or is damaged.
    """
    try:
        state = parse_json(path.read_bytes())
        if not isinstance(state, dict) or not state.keys() <= {"train", "held_out"}:
            raise ValueError("it is no account of train and held_out")
        return restore_spending(state)
    except (OSError, TypeError, ValueError, AttributeError) as error:
        raise FedhaError(
            f"cannot read {path} ({brief(error)}): without it nothing is known of what was spent; restore it "
            "from a copy"
        ) from error


def client_names(members: Iterable[Member]) -> dict[int, str]:
    """What each client is called, by client id: its domain's name, or ``domain/k`` for the k-th of several, from 0."""
    ordered = sorted(members, key=lambda one: one.client_id)
    several, seen = Counter(one.domain for one in ordered), Counter[str]()
    names = {}
    for one in ordered:
        names[one.client_id] = one.domain if several[one.domain] == 1 else f"{one.domain}/{seen[one.domain]}"
        seen[one.domain] += 1
    return names


def _ledger(known: Mapping[str, Ledger], name: str, examples: int) -> Ledger:
    return known.get(name, Ledger("example", examples))
