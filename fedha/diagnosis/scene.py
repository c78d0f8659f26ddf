"""Who is asked in a diagnosis, about which head, and who is compared with whom."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fedha.config import Config
from fedha.diagnosis.party import Party
from fedha.diagnosis.settings import Mode, Settings
from fedha.diagnosis.subject import Subject, check_config
from fedha.errors import FedhaError, listed


@dataclass(frozen=True)
class Scene:
    """Who is asked, and about which head.

    Attributes:
        config: One recipe, one seed.
        head: The learned head, [C, D], float64.
        sources: In client order.
        targets: Domains that nobody trained on.
        subject: Features of all of them, where they are here; None: nobody's features are.
    """

    config: Config
    head: Tensor
    sources: tuple[Party, ...]
    targets: tuple[Party, ...]
    subject: Subject | None = None

    @property
    def everyone(self) -> tuple[Party, ...]:
        """Sources, then targets."""
        return (*self.sources, *self.targets)

    @property
    def names(self) -> list[str]:
        """The sources'."""
        return [one.name for one in self.sources]

    @property
    def shape(self) -> tuple[int, int]:
        """Of the head, [C, D]."""
        return self.head.shape[0], self.head.shape[1]


@dataclass(frozen=True)
class Choice:
    """Who is compared with whom.

    Attributes:
        mode: How.
        to: Whom transfer is measured to.
        notes: What should be said about it.
    """

    mode: Mode
    to: tuple[str, ...]
    notes: tuple[str, ...] = ()


def choose(config: Config, sources: Sequence[str], targets: Sequence[str], settings: Settings) -> Choice:
    """Mode and targets of a diagnosis.

    Args:
        config: Of the run.
        sources: By name, in client order.
        targets: By name.
        settings: What is asked for.

    Raises:
        FedhaError: The run cannot be diagnosed, or not so.
    """
    check_config(config)
    check_names(settings.to, [*targets, *sources])
    notes = []
    mode = settings.mode or ("pooled" if targets or settings.to else "leave-one-out")
    if mode == "leave-one-out" and settings.mode is None:
        notes.append(
            "This run has no target: each source is held against the mean of the others, which is no unseen domain."
        )
    if mode == "pooled" and not (targets or settings.to):
        raise FedhaError("this run has no target to compare its sources with; take --mode leave-one-out, or pairs")
    if config.privacy.secure_aggregation and (mode != "pooled" or set(settings.to) & set(sources)):
        raise FedhaError(
            f"--mode {mode} reads what single clients answer, which privacy.secure_aggregation hides from everyone; "
            "take --mode pooled with a target that is no source"
        )
    if config.privacy.secure_aggregation and settings.method == "published":
        raise FedhaError("--method published reads what single clients answer, which privacy.secure_aggregation hides")
    if settings.method == "published" and len(sources) + len(targets) < 2:
        raise FedhaError("--method published compares domains with each other, and this run has one")
    if mode in ("pairs", "leave-one-out") and len(sources) < 2:
        raise FedhaError(f"--mode {mode} compares sources with each other, and this run has one; take --mode pooled")
    to = settings.to or (tuple(targets) if mode != "leave-one-out" else tuple(sources))
    if mode == "pooled" and len(sources) == 1 and set(to) & set(sources):
        raise FedhaError(f"--to names the only source, {sources[0]!r}, which leaves nothing to compare it with")
    return Choice(mode, to, tuple(notes))


def check_names(asked: Sequence[str], known: Sequence[str]) -> None:
    """Whether domains that transfer is to be measured to are some.

    Args:
        asked: By name.
        known: Every domain of the run.

    Raises:
        FedhaError: One is none.
    """
    for name in asked:
        if name not in known:
            raise FedhaError(
                f"transfer is to be measured to {name!r}, which is no domain of the run; take some of {listed(known)}"
            )
