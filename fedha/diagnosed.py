"""A finished run's model at a round that somebody names, looked at on the run's own domains."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedha.config import load_written
from fedha.data.domain import DomainSet
from fedha.diagnosis.sources import Between, between, toward
from fedha.diagnosis.subject import Subject, check_config, looked_at
from fedha.loading import load, own_domains
from fedha.runs import runfolder


def between_sources(
    run: str | Path,
    *,
    rule: str = "final",
    round: int | None = None,
    logits: float = 1.0,
    domains: DomainSet | None = None,
) -> Between:
    """What a finished run's sources say of its learned head: predictors that need no target.

    Args:
        run: The run's folder.
        rule: Whose round's weights, as for `fedha.load`.
        round: The weights of this round, whatever a rule says.
        logits: Radius of the ball of the transfer measure, in logit units.
        domains: The run's data, where they are at hand; None: they are loaded.

    Returns:
        Curvature, gradient, features, transfer measure and bound, each of the pair that is farthest apart.

    Raises:
        FedhaError: The folder holds no such model, the run protects its examples, or has one source.
    """
    with _subject(run, rule, round, domains, targets=False) as subject:
        return between(subject.sources, subject.config.seed[0], logits)


def to_targets(
    run: str | Path,
    *,
    rule: str = "final",
    round: int | None = None,
    logits: float = 1.0,
    domains: DomainSet | None = None,
) -> dict[str, Between]:
    """The same numbers between the sources' mean and each target: what those of `between_sources` may be held against.

    Args:
        run: The run's folder.
        rule: As for `between_sources`.
        round: Likewise.
        logits: Likewise.
        domains: Likewise.

    Returns:
        By target.

    Raises:
        FedhaError: The folder holds no such model, or the run protects its examples.
    """
    with _subject(run, rule, round, domains, targets=True) as subject:
        return {one.name: toward(subject.sources, one, subject.config.seed[0], logits) for one in subject.targets}


@contextmanager
def _subject(
    run: str | Path, rule: str, round: int | None, domains: DomainSet | None, *, targets: bool
) -> Iterator[Subject]:
    model = load(run, rule=rule, round=round)
    config = load_written(Path(run).expanduser() / runfolder.CONFIG)
    check_config(config)
    known = domains or own_domains(Path(run).expanduser(), config)
    with looked_at(model, config, known, lambda *_: None, targets=targets) as subject:
        yield subject
