"""Many small clients on one card, together and one by one: federated averaging of a small MLP."""

import statistics

from sides import networks, rounds

from card.stage import Stage
from fedha.config import TrainingConfig
from fedha.data.domain import Domain

EXAMPLES, BATCH, RATE = 60, 10, 0.1


def compare(stage: Stage) -> None:
    """Clients a second of cohorts of several sizes."""
    own = {"epochs": 1, "batch_size": BATCH, "learning_rate": RATE}
    training = TrainingConfig(mode="local", rounds=rounds.ENDLESS, averaging="clients", local=own)
    for count in (4, 8) if stage.tiny else (10, 100, 1000):
        for together in (True, False):
            key = f"{count} clients, {'together' if together else 'one by one'}"
            if (not together and count > 100) or stage.over(key):
                continue
            sources = _clients(stage, count)
            model = networks.mlp(784, 200).to(stage.device)
            course = rounds.plain(model, sources, "erm", training, together=together)
            next(course)
            repeats = 2 if stage.tiny or not together else 5
            seconds = statistics.median(stage.seconds(lambda course=course: next(course)) for _ in range(repeats))
            stage.say(key, {"clients/s": count / seconds, "ms a round": 1e3 * seconds})


def _clients(stage: Stage, count: int) -> list[Domain]:
    return networks.images(count, EXAMPLES, (1, 28, 28), stage.device)
