"""What one round releases of one client, as its config says: the same for server, site and plan."""

from fedha.config import PrivacyConfig, TrainingConfig
from fedha.errors import FedhaError
from fedha.minibatches import epoch_sizes, step_count
from fedha.privacy.client_level import cohort_release
from fedha.privacy.ledger import Release, Sampled, round_releases
from fedha.privacy.releasable import private_exchanges
from fedha.privacy.sampling import Sampling, releases
from fedha.recipes import Recipe

Releases = tuple[tuple[Release, int], ...]

DELTA_SHARE = 0.1  # of one over the population: the usual delta


def noise_of(privacy: PrivacyConfig) -> float:
    """The noise multiplier.

    Raises:
        ValueError: There is none, so nothing is protected.
    """
    if privacy.noise_multiplier is None:
        raise ValueError("privacy.noise_multiplier is not given, so there is no noise; give a positive number")
    return privacy.noise_multiplier


def delta_of(privacy: PrivacyConfig, population: int) -> float:
    """The config's delta, or a tenth of one over the population."""
    return DELTA_SHARE / population if privacy.delta is None else privacy.delta


def local_draws(training: TrainingConfig, privacy: PrivacyConfig, examples: int) -> tuple[Sampling, int]:
    """How a round's gradients draw a client's examples, and how many gradients there are."""
    local = training.local
    if training.mode == "synchronous":
        return Sampling("whole", examples, examples), 1
    epoch = epoch_sizes(examples, local.batch_size)
    return Sampling(privacy.sampling, epoch[0], examples), step_count(local, len(epoch))


def exchange_release(privacy: PrivacyConfig, examples: int) -> Release:
    """The entry of one exchange of statistics."""
    return Release(noise_of(privacy) * privacy.statistics_noise, "whole", examples)


def update_release(training: TrainingConfig, privacy: PrivacyConfig, examples: int) -> tuple[Release, int]:
    """The entry of one round's update."""
    update, steps = local_draws(training, privacy, examples)
    return Release(noise_of(privacy), update.method, update.batch), releases(update, steps)


def evaluation_release(privacy: PrivacyConfig, examples: int) -> Release:
    """The entry of one evaluation, in the ledger of the held-out examples.

    Raises:
        FedhaError: They are not evaluated.
    """
    if privacy.evaluation_noise is None:
        raise FedhaError("privacy.evaluation_noise is not given, so held-out examples are not evaluated; give it")
    return Release(privacy.evaluation_noise, "whole", examples)


def answer_releases(kind: str, training: TrainingConfig, privacy: PrivacyConfig, examples: int) -> Releases:
    """What one answer of a client releases, where examples are protected.

    Args:
        kind: The message type; an evaluation is of the held-out examples, all else of the training examples.
        training: How clients train.
        privacy: Noise and sampling.
        examples: n, of those.
    """
    if kind == "query.measure":
        return ((exchange_release(privacy, examples), 1),)
    if kind == "train":
        return (update_release(training, privacy, examples),)
    return ((evaluation_release(privacy, examples), 1),)


def round_shape(recipe: Recipe, training: TrainingConfig, privacy: PrivacyConfig, examples: int) -> Releases:
    """All that a round releases of a client's training examples, where examples are protected.

    Args:
        recipe: What is aligned.
        training: How clients train.
        privacy: Noise and sampling.
        examples: n, the client's.

    Raises:
        FedhaError: A statistic cannot be covered.
    """
    noise = noise_of(privacy)
    update, steps = local_draws(training, privacy, examples)
    exchanges = len(private_exchanges(recipe))
    return round_releases(exchanges, noise * privacy.statistics_noise, update, steps, noise)


def cohort_round(
    recipe: Recipe, training: TrainingConfig, privacy: PrivacyConfig, clients: int, cohort: int, *, hidden: bool = True
) -> Release:
    """The one release of a round in which clients as a whole are protected: its exchanges share the cohort.

    That a client may not have been drawn hides it from who does not know who was. A participant knows of itself, so the
    others are drawn among one client less; where that leaves no choice, nothing is amplified.

    Args:
        recipe: What is aligned.
        training: How the cohort is drawn.
        privacy: The noise.
        clients: How many there are.
        cohort: How many take part.
        hidden: Whether the server alone knows who they are.
    """
    noise = noise_of(privacy)
    exchanges = [noise * privacy.statistics_noise] * len(recipe.measurements())
    amplified = hidden and training.client_sampling == "uniform" and cohort < clients - 1
    drawn: Sampled = "without_replacement" if amplified else "unamplified"
    return cohort_release([*exchanges, noise], "whole" if cohort == clients else drawn, cohort)
