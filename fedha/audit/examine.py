"""An audit of one run from its config: done again, listened to, attacked."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

from torch import Tensor

from fedha import temporary
from fedha.audit import capture
from fedha.audit.attacker import Attacker, Predict
from fedha.audit.audit import audit
from fedha.audit.drowning import drowned
from fedha.audit.findings import Findings
from fedha.audit.inversion import Inversion
from fedha.audit.network import logits_of, some_of
from fedha.audit.record import Audited
from fedha.audit.replay import Model, difference, replay
from fedha.audit.sent import Sent
from fedha.audit.settings import Settings, chosen_rounds
from fedha.config import Config
from fedha.data.domain import Domain, DomainSet, Examples
from fedha.data.partition import client_domains
from fedha.errors import FedhaError
from fedha.exchange import Task
from fedha.flower.serve import load_domains
from fedha.minibatches import step_sizes
from fedha.models import build
from fedha.models.check import likely_form
from fedha.placement import placed
from fedha.runs.versions import versions
from fedha.targets import class_count, softens
from fedha.training import evaluate

Progress = Callable[[str, int, int], None]  # what is being done, how much of it is done, of how much

PUBLIC = 500  # examples of the first target that the attacker has
SMALL_CLIENTS = 2  # whose few examples are gone after
INVERSIONS, ITERATIONS = 1, 500  # releases inverted for each number of examples, and steps of each inversion


@dataclass(frozen=True)
class Subject:
    """A run under audit.

    Attributes:
        config: One recipe, one seed.
        domains: Its domains.
        clients: What each client holds, in client order.
    """

    config: Config
    domains: DomainSet
    clients: Sequence[Domain]


def examine(
    config: Config,
    settings: Settings,
    progress: Progress,
    *,
    trained: Model | None,
    keep: Path | None = None,
    ended: int | None = None,
) -> Audited:
    """Do a run again, attack what it sends, and its final model.

    Args:
        config: One recipe, one seed.
        settings: Scope and budget.
        progress: Told of progress.
        trained: The run's own final model, to compare the replay with; None where it was not kept.
        keep: Where the releases are left as files; None: nowhere.
        ended: The run's last round, where it is known; None: that of the config.

    Raises:
        FedhaError: The config cannot be run here, or asks for rounds that it does not have.
    """
    begun = time.perf_counter()
    rounds = chosen_rounds(settings.rounds, ended or config.training.rounds)
    if softens(config.training):
        raise FedhaError(
            "the run was trained with label_smoothing or class_weights, and the attacks know the plain cross-entropy "
            "alone: what they find would say too little; audit a run without them"
        )
    recipe = config.recipe[0].resolve()
    if recipe.mixup_alpha or recipe.sam_radius:
        raise FedhaError(
            f"recipe {recipe.name!r} has mixup_alpha or sam_radius, and the attacks know gradients of single examples "
            "at the model alone: what they find would say too little; audit a run without them"
        )
    domains = load_domains(config)
    subject = Subject(config, domains, client_domains(domains, config.data, config.seed[0]))
    with TemporaryDirectory(prefix="fedha-audit-", dir=temporary.wanted()) as place:
        folder = keep or Path(place)
        final = _replayed(subject, rounds, folder, progress)
        found = _attacked(subject, settings, rounds, folder, final, progress)
    small = {count: _small(subject, settings, count, progress) for count in settings.small}
    gap = None if trained is None else difference(final, trained)
    made = {
        "name": config.name,
        "recipe": config.recipe[0].name,
        "seed": config.seed[0],
        "settings": asdict(settings),
        "rounds": list(rounds),
        "same_bits": None if trained is None else gap == 0,
        "difference": gap,
        "replay": _said(trained, gap),
        "sources_accuracy": _on_sources(subject, final),
        "not_small": {str(count): one for count, one in small.items() if isinstance(one, str)},
        "seconds": time.perf_counter() - begun,
        "versions": versions(),
    }
    return Audited(made, found, {count: one for count, one in small.items() if isinstance(one, Findings)})


def _attacker_of(subject: Subject, settings: Settings, progress: Progress) -> Attacker:
    """What an honest-but-curious server knows of a run: config, network, and the target that it evaluates on."""
    config, domains = subject.config, subject.domains
    public = domains.targets[0].held_out.select(slice(0, PUBLIC)) if domains.targets else None
    low, high = _value_range(public)
    model = build(
        config.network, domains.input_shape, domains.classes, config.seed[0]
    ).eval()  # chance is not known to it
    return Attacker(
        max(domains.classes, class_count(model, likely_form(model, domains.input_shape))),
        model,
        public,
        weight_decay=config.training.weight_decay,
        decay=config.training.decay,
        update_scale=update_scale(config, subject.clients),
        averaged=frozenset(term.statistic for term in config.recipe[0].resolve().terms if term.client_average),
        inversion=Inversion(iterations=ITERATIONS, restarts=1, low=low, high=high),
        inversions=INVERSIONS,
        train=_shadow_training(subject, settings.shadows, progress) if settings.shadows else None,
        shadows=settings.shadows or 8,
        seed=config.seed[0],
        unasked=_unasked(config),
    )


def _unasked(config: Config) -> str:
    privacy = config.privacy
    if privacy.protect != "nothing":
        return f"no client answers a diagnosis under privacy.protect: {privacy.protect}"
    return "no client answers a diagnosis under privacy.secure_aggregation" if privacy.secure_aggregation else ""


def update_scale(config: Config, clients: Sequence[Domain]) -> float | None:
    """Learning rate times steps, where every client takes as many plain steps of a rate that never changes."""
    training, local = config.training, config.training.local
    if training.mode != "local" or local.optimizer != "sgd" or local.momentum or training.schedule != "constant":
        return None
    if training.rates or training.clip_norm is not None:  # then steps differ by layer, or in length
        return None
    task = Task(config.recipe[0].resolve(), training, config.seed[0], config.privacy)
    if any(rule.correct is not None for rule in task.rules):
        return None
    steps = {len(step_sizes(task, len(one.train))) for one in clients}
    return local.learning_rate * steps.pop() if len(steps) == 1 else None


def _replayed(subject: Subject, rounds: Sequence[int], folder: Path, progress: Progress) -> dict[str, Tensor]:
    every = subject.config.training.rounds
    progress("training again", 0, every)
    return replay(
        subject.config,
        subject.domains,
        rounds=rounds,
        keep=folder,
        after_round=lambda number: progress("training again", number, every),
    )


def _attacked(
    subject: Subject, settings: Settings, rounds: Sequence[int], folder: Path, final: Model, progress: Progress
) -> Findings:
    attacker = _attacker_of(subject, settings, progress)
    heard = _noted(_heard(folder, rounds), len(rounds), progress)
    attacks = [one for one in settings.attacks if one != "membership_lira" or settings.shadows]
    return audit(
        drowned(heard, settings.noise, subject.config.seed[0]),
        dict(enumerate(subject.clients)),
        attacker,
        final=final,
        attacks=attacks,
    )


def _on_sources(subject: Subject, final: Model) -> float | None:
    """The final model's accuracy on what the clients hold out, mean over clients, 0 to 1; None if that is nothing.

    No client needs to have sent it: who simulates has everybody's data.
    """
    config, domains = subject.config, subject.domains
    model = build(config.network, domains.input_shape, domains.classes, config.seed[0])
    held_out = [placed(one.held_out, model, some_of(final)) for one in subject.clients if len(one.held_out)]
    return fmean(evaluate(model, final, part)["accuracy"] for part in held_out) if held_out else None


def _heard(folder: Path, rounds: Sequence[int]) -> Iterator[Sent]:
    for number in rounds:
        yield from capture.read_round(capture.path_of(folder, number))


def _noted(sent: Iterable[Sent], rounds: int, progress: Progress) -> Iterator[Sent]:
    """The same releases; tells of each round that is begun."""
    seen: set[int] = set()
    for one in sent:
        if one.round not in seen:
            progress("attacking", len(seen), rounds)
            seen.add(one.round)
        yield one
    progress("attacking", rounds, rounds)


def _small(subject: Subject, settings: Settings, count: int, progress: Progress) -> Findings | str:
    """The first round with clients of so many examples, or why there is none."""
    attacks = [one for one in settings.attacks if not one.startswith("membership_")]
    if not attacks:
        return "only attacks on the final model were asked for"
    what = f"clients of {count} example{'s' if count > 1 else ''}"
    progress(what, 0, 1)
    config = subject.config
    training = config.training.model_copy(update={"rounds": 1})
    clients = [replace(one, train=one.train.select(slice(0, count))) for one in subject.clients]
    with TemporaryDirectory(prefix="fedha-audit-", dir=temporary.wanted()) as place:
        try:
            replay(
                config.model_copy(update={"training": training}),
                subject.domains,
                rounds=[1],
                keep=Path(place),
                clients=clients,
            )
        except FedhaError as error:  # some statistics need more examples, and a site may refuse to answer for so few
            return str(error)
        sent = [one for one in _heard(Path(place), [1]) if one.client is None or one.client < SMALL_CLIENTS]
        attacker = _attacker_of(Subject(config, subject.domains, clients), settings, progress)
        found = audit(
            drowned(sent, settings.noise, config.seed[0]), dict(enumerate(clients)), attacker, attacks=attacks
        )
    progress(what, 1, 1)
    return found


def _shadow_training(
    subject: Subject, shadows: int, progress: Progress
) -> Callable[[Mapping[int, Examples], int], Predict]:
    """Trains as the run was, from another seed: other initial weights, minibatches and noise."""
    config, domains = subject.config, subject.domains

    def train(parts: Mapping[int, Examples], number: int) -> Predict:
        progress("shadow models", number, shadows)
        clients = [
            replace(one, train=parts[place]) if place in parts else one for place, one in enumerate(subject.clients)
        ]
        other = config.model_copy(update={"seed": [config.seed[0] + 1 + number]})
        trained = replay(other, domains, clients=clients)
        progress("shadow models", number + 1, shadows)
        model = build(config.network, domains.input_shape, domains.classes, config.seed[0])
        return lambda examples: logits_of(model, trained, examples)

    return train


def _value_range(public: Examples | None) -> tuple[float | None, float | None]:
    """The range of pixels, where inputs are images; what is no image has none."""
    if public is None or not public.form.alone or len(public.shape) != 3 or not len(public):
        return None, None
    numbers = public.numbers()[""]
    low, high = float(numbers.min()), float(numbers.max())
    return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)


def _said(trained: Model | None, gap: float | None) -> str:
    if trained is None:
        return "Done again from its config; there was no model to compare the replay with."
    if gap == 0:
        return "Done again from its config: the replay ended with the run's own model, to the bit."
    if gap is None or not math.isfinite(gap):
        return (
            "Done again from its config, but the replay ended with another model: what is said here is of the replay."
        )
    return (
        f"Done again from its config: the replay's model differs from the run's by up to {gap:.1e}, for the run was "
        "made by another engine, machine or version; what is said here is of the replay."
    )
