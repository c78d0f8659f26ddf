"""Clients that keep the global model are sent it once a round, and whoever has lost it is sent it again."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from hypothesis import given
from hypothesis import strategies as st

from fedha.config import TrainingConfig
from fedha.deploy.apps import whole
from fedha.deploy.memory import keep_model, kept_model
from fedha.engine.inline import InlineGrid
from fedha.errors import FedhaError
from fedha.flower import HessianAlignment, client_app
from fedha.flower.held import digest, lacking, model_of
from fedha.flower.wire import CONSTANTS
from fedha.models import SplitModel
from fedha.models.state import kinds_of, named_state
from fedha.recipes import RECIPES
from tests.driving import app_of, assert_same_bits, train_over, train_plainly
from tests.problems import SEED, Problem, make_problem
from tests.test_state import frozen, own

TRAINING = TrainingConfig(rounds=4, optimizer="sgd", learning_rate=0.1)


class KeepingGrid(InlineGrid):
    """Nodes with a disk each, as in a deployment; counts which messages carried the model."""

    def __init__(self, problem: Problem, folder: Path) -> None:
        super().__init__(app_of(problem), len(problem.domains))
        self.folder, self.number = folder, 0
        self.carried: list[tuple[str, int, bool]] = []  # kind, node, whether the model came along
        self.lose: set[int] = set()  # messages, by number, before which the receiver's disk is emptied

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        replies = []
        for message in messages:
            self.number += 1
            node, kind = message.metadata.dst_node_id, message.metadata.message_type
            message.metadata.__dict__["_message_id"] = str(self.number)
            cache = self.folder / str(node)
            if self.number in self.lose:
                shutil.rmtree(cache, ignore_errors=True)
            if model_of(message.content):
                self.carried.append((kind, node, bool(message.content["parameters"])))
            content = whole(message.content, cache)
            if content is None:
                replies.append(Message(lacking(), reply_to=message))
                replies[-1].metadata.__dict__["_src_node_id"] = node
                continue
            message.content = content
            replies += super().send_and_receive([message])
        return replies


def trained(grid: KeepingGrid, recipe: str = "hgp") -> tuple[HessianAlignment, dict[str, torch.Tensor]]:
    strategy = HessianAlignment(recipe, TRAINING, seed=SEED, clients=3)
    strategy.clients_keep_models = True
    return strategy, train_over(grid, strategy, make_problem(), TRAINING.rounds)[0]


@pytest.mark.parametrize("recipe", ["hgp", "exact_diagonal", "erm"])
def test_each_client_is_sent_a_model_once_and_the_answer_is_the_same(recipe: str, tmp_path: Path) -> None:
    grid = KeepingGrid(make_problem(), tmp_path)
    strategy, parameters = trained(grid, recipe)
    plain, _ = train_plainly(make_problem(), RECIPES[recipe], TRAINING)
    assert_same_bits(parameters, plain)
    exchanges = RECIPES[recipe].exchanges
    assert len(grid.carried) == 3 * exchanges * TRAINING.rounds
    assert sum(came for _, _, came in grid.carried) == 3 * TRAINING.rounds
    assert strategy.talk.events == []


def test_less_is_sent_than_to_clients_that_keep_nothing(tmp_path: Path) -> None:
    keeping, _ = trained(KeepingGrid(make_problem(), tmp_path))
    forgetful = HessianAlignment("hgp", TRAINING, seed=SEED, clients=3)
    train_over(InlineGrid(app_of(make_problem()), 3), forgetful, make_problem(), TRAINING.rounds)
    model = sum(value.numel() * value.element_size() for value in keeping.begun().parameters.values())
    saved = forgetful.talk.bytes_down - keeping.talk.bytes_down
    times = 3 * (RECIPES["hgp"].exchanges - 1) * TRAINING.rounds
    assert saved > times * model - 100 * 3 * RECIPES["hgp"].exchanges * TRAINING.rounds  # the names take some bytes


@pytest.fixture(scope="module")
def plain_hgp() -> dict[str, torch.Tensor]:
    return train_plainly(make_problem(), RECIPES["hgp"], TRAINING)[0]


@given(lost=st.sets(st.integers(min_value=4, max_value=39)))
def test_who_has_lost_the_model_is_sent_it_again_and_the_answer_is_the_same(
    lost: set[int], plain_hgp: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory
) -> None:
    grid = KeepingGrid(make_problem(), tmp_path_factory.mktemp("disks"))
    grid.lose = lost
    strategy, parameters = trained(grid)
    assert_same_bits(parameters, plain_hgp)
    assert strategy.talk.events == []


def test_a_model_that_was_damaged_on_the_disk_counts_as_lost(tmp_path: Path) -> None:
    model = {"b": torch.randn(3, 2), "a": torch.arange(4.0, dtype=torch.float64)}
    name = digest(model)
    keep_model(tmp_path, name, model)
    kept = kept_model(tmp_path, name)
    assert kept is not None
    assert list(kept) == ["b", "a"]
    assert_same_bits(kept, model)
    (path,) = (tmp_path / "models").iterdir()
    content = bytearray(path.read_bytes())
    for changed in (content[:-1], content[:-1] + bytes([content[-1] ^ 1]), b"", b"{}"):
        path.write_bytes(changed)
        assert kept_model(tmp_path, name) is None
    assert kept_model(tmp_path, "0" * 64) is None


def test_a_model_is_another_when_anything_of_it_is() -> None:
    model = {"a": torch.ones(2, 3), "b": torch.zeros(2)}
    others = [
        {"b": model["b"], "a": model["a"]},
        {"a": model["a"], "c": model["b"]},
        {"a": model["a"].view(3, 2), "b": model["b"]},
        {"a": model["a"].double(), "b": model["b"]},
        {"a": model["a"], "b": -model["b"]},
    ]
    assert len({digest(one) for one in [model, *others]}) == 6
    assert digest({name: value.clone() for name, value in model.items()}) == digest(model)


def test_only_the_latest_models_are_kept(tmp_path: Path) -> None:
    names = []
    for number in range(7):
        model = {"a": torch.full((2,), float(number))}
        names.append(digest(model))
        keep_model(tmp_path, names[-1], model)
    assert [kept_model(tmp_path, name) is not None for name in names] == [False] * 3 + [True] * 4


@pytest.mark.parametrize("name", ["../../etc/passwd", "x" * 64, "0" * 63])
def test_a_name_that_is_no_digest_is_refused(name: str, tmp_path: Path) -> None:
    content = RecordDict({"request": ConfigRecord({"model": name})})
    with pytest.raises(FedhaError, match="no SHA-256 digest"):
        whole(content, tmp_path)


def test_what_names_no_model_passes_as_it_is(tmp_path: Path) -> None:
    content = RecordDict({"request": ConfigRecord({"task": "{}"})})
    assert whole(content, tmp_path) is content


def test_a_client_that_asks_again_for_what_it_was_sent_is_not_sent_it_for_ever(tmp_path: Path) -> None:
    class Insatiable(KeepingGrid):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
            found = []
            for message in messages:
                if model_of(message.content) and message.metadata.dst_node_id == 3:
                    found.append(Message(lacking(), reply_to=message))
                    found[-1].metadata.__dict__["_src_node_id"] = 3
                else:
                    found += super().send_and_receive([message])
            return found

    with pytest.raises(FedhaError, match="model"):
        trained(Insatiable(make_problem(), tmp_path))


class Forgetful(InlineGrid):
    """Each message meets a new process, which makes its own network and has a disk, as at a deployed client."""

    def __init__(self, make: Callable[[Context], ClientApp], clients: int, folder: Path) -> None:
        super().__init__(lambda message, context: make(context)(message, context), clients)
        self.folder, self.sent = folder, list[tuple[int, str, bool]]()

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        replies = []
        for message in messages:
            self.sent.append(
                (message.metadata.dst_node_id, message.metadata.message_type, CONSTANTS in message.content)
            )
            message.content = whole(message.content, self.folder / str(message.metadata.dst_node_id))
            replies += super().send_and_receive([message])
        return replies


def test_constants_are_sent_once_to_a_site_that_makes_others_and_kept_there(tmp_path: Path) -> None:
    def drifted(_: Context) -> SplitModel:
        model = frozen()
        with torch.no_grad():
            model.featurizer[1].weight.mul_(3.0)
        return model

    def trained(make: Callable[[Context], SplitModel], folder: Path) -> tuple[dict[str, torch.Tensor], Forgetful]:
        grid = Forgetful(lambda _: client_app(make, own), 3, folder)
        strategy = HessianAlignment("hgp", TRAINING, clients=3)
        strategy.talk.tell = told.append
        strategy.clients_keep_models = True
        return strategy.start(grid, ArrayRecord(frozen().state_dict()), 2).arrays.to_torch_state_dict(), grid

    told: list[str] = []
    usual, plain = trained(frozen, tmp_path / "usual")
    assert told == []
    found, grid = trained(drifted, tmp_path / "drifted")
    assert_same_bits(found, usual)
    assert not any(came for _, _, came in plain.sent)
    assert sorted(node for node, _, came in grid.sent if came) == sorted({node for node, _, _ in grid.sent})
    assert len(told) == 3
    for path in (tmp_path / "drifted").glob("*/constants/*"):
        path.write_bytes(path.read_bytes()[:-1])  # then it counts as lost
    assert_same_bits(trained(drifted, tmp_path / "drifted")[0], usual)


def test_constants_that_are_not_what_the_server_names_are_refused() -> None:
    class Swapping(InlineGrid):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
            given = list(messages)
            for message in given:
                if "request" in message.content and CONSTANTS in message.content:
                    sent = message.content[CONSTANTS].to_torch_state_dict()
                    message.content[CONSTANTS] = ArrayRecord({name: value * 2 for name, value in sent.items()})
            return super().send_and_receive(given)

    def drifted(_: Context) -> SplitModel:
        model = frozen()
        model.featurizer[2].running_mean.add_(1.0)
        return model

    strategy = HessianAlignment("erm", clients=2)
    with pytest.raises(FedhaError, match="the constants that the server sent are not those that it names"):
        strategy.start(Swapping(client_app(drifted, own), 2), ArrayRecord(frozen().state_dict()), 1)


def test_a_server_that_trains_other_parts_than_its_clients_is_refused() -> None:
    strategy, grid = HessianAlignment("erm", clients=2), InlineGrid(client_app(frozen, own), 2)
    strategy.talk.meet(grid, 1)  # as in a deployment, whose server learns from them before it makes its network
    trainable = frozen().requires_grad_()
    with pytest.raises(FedhaError, match=r"the server has 'featurizer.1.weight' as trained where .* as frozen"):
        strategy.begin(named_state(trainable), kinds_of(trainable))
