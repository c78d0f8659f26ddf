"""Ray changes nothing but the time: the same bits, whatever dies, hangs or fails on the way."""

import os
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from hypothesis import given
from hypothesis import strategies as st

from fedha.config import LocalConfig, TrainingConfig
from fedha.data.domain import Domain
from fedha.engine import ray_session
from fedha.errors import ClientError, FedhaError
from fedha.flower import HessianAlignment
from fedha.flower.client import Clients
from fedha.flower.failure import find_failure
from fedha.models import SplitModel
from fedha.recipes import RECIPES
from tests.driving import assert_same_bits, train_over, train_plainly
from tests.problems import PROBES, ROWS, SEED, Problem, make_domain, make_problem

pytestmark = pytest.mark.usefixtures("same_numerics")

SYNCHRONOUS = TrainingConfig(rounds=3, weight_decay=0.01, schedule="cosine", averaging="examples")
LOCAL = TrainingConfig(mode="local", rounds=3, local=LocalConfig(epochs=1, batch_size=6, momentum=0.5))


@pytest.fixture(scope="module", autouse=True)
def ray_started(shared_ray: None) -> None:
    ray_session.start(2)  # again, if a test has stopped it


def five_clients() -> Problem:
    sizes = (12, 17, 14, 9, 11)
    domains = tuple(make_domain(f"d{k}", k, size, 3, torch.float32) for k, size in enumerate(sizes))
    return replace(make_problem(precision="float32"), domains=domains)


@dataclass(frozen=True)
class Make:
    """Makes the clients of a problem in a worker; may let a client do something first, which a file remembers."""

    model: SplitModel
    mishap: str = ""  # what happens to the client with place 2 in the first training of round 2
    marks: str = ""

    def __call__(self, data: Mapping[int, Domain]) -> "Clients | ClientApp":
        clients = Clients(lambda _: self.model, lambda context: data[int(context.node_config["partition-id"])])
        if not self.mishap:
            return clients
        app = ClientApp()

        def answer(message: Message, context: Context) -> Message:
            reply = clients.answer(message.metadata.message_type, message.content, context)
            self.befall(message, context)
            return Message(reply, reply_to=message)

        for register in (app.query("introduce"), app.query("measure"), app.train(), app.evaluate()):
            register(answer)
        return app

    def befall(self, message: Message, context: Context) -> None:
        here = message.metadata.message_type, message.metadata.group_id, context.node_config["partition-id"]
        if here != ("train", "2", 2) or (self.mishap != "raise" and Path(self.marks).exists()):
            return
        if self.marks:
            Path(self.marks).touch()
        if self.mishap == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.mishap == "raise":
            raise ValueError("a lens cap was on")
        time.sleep(1000)


def grid_of(problem: Problem, make: Make | None = None, **options: Any) -> Any:
    from fedha.engine.host import Resources  # Ray reads its environment when it is imported: after its start
    from fedha.engine.ray_grid import RayGrid

    given = {"together": False, "workers": 2, "resources": Resources(cpus=0.1), **options}
    return RayGrid(make or Make(problem.model), len(problem.domains), data=problem.domains, **given)


# --- one answer ---


@pytest.fixture(scope="module")
def shared_grid(ray_started: None) -> Iterator[Any]:
    grid = grid_of(five_clients())
    yield grid
    grid.close()


SAMPLED = SYNCHRONOUS.model_copy(update={"clients_per_round": 3, "client_sampling": "examples", "averaging": "domains"})


@pytest.mark.parametrize("training", [SYNCHRONOUS, LOCAL, SAMPLED], ids=["synchronous", "local", "sampled"])
@pytest.mark.parametrize("name", ["erm", "hgp", "hutchinson", "exact_diagonal", "groupdro", "fediir", "coral", "mine"])
def test_five_clients_on_two_workers_give_the_bits_of_the_plain_loop(
    name: str, training: TrainingConfig, shared_grid: Any
) -> None:
    problem, recipe = five_clients(), replace(ROWS[name], probes=PROBES, weight=1.7)
    parameters, records = train_plainly(problem, recipe, training)
    strategy = HessianAlignment(recipe, training, seed=SEED, clients=5)
    over_grid = train_over(shared_grid, strategy, problem, training.rounds)
    assert_same_bits(over_grid[0], parameters)
    assert over_grid[1] == records


def test_what_clients_remember_stays_with_them() -> None:
    problem, recipe = five_clients(), replace(RECIPES["fishr"], weight=9.0)
    parameters, records = train_plainly(problem, recipe, SYNCHRONOUS)
    grid = grid_of(problem)
    over_grid = train_over(grid, HessianAlignment(recipe, SYNCHRONOUS, seed=SEED, clients=5), problem, 3)
    assert_same_bits(over_grid[0], parameters)
    assert over_grid[1] == records
    saved = grid.save_states()
    assert all(state is not None for state in saved)
    other = grid_of(problem, workers=1)
    other.restore_states(saved)
    assert_same_states(other.save_states(), saved)
    ends = []
    for one in (grid, other):  # both go on from the same memory
        strategy = HessianAlignment(recipe, SYNCHRONOUS, seed=SEED, clients=5)
        ends.append(train_over(one, strategy, problem, 2)[0])
        one.close()
    assert_same_bits(*ends)


def assert_same_states(one: list[ArrayRecord | None], other: list[ArrayRecord | None]) -> None:
    for left, right in zip(one, other, strict=True):
        assert {name: array.data for name, array in (left or {}).items()} == {
            name: array.data for name, array in (right or {}).items()
        }


def test_clients_trained_together_agree_with_the_loop_and_repeat_to_the_bit() -> None:
    problem, recipe = five_clients(), RECIPES["hgp"]
    parameters, _ = train_plainly(problem, recipe, LOCAL)
    grid, ends = grid_of(problem, together=True), []
    for _ in range(2):
        ends.append(train_over(grid, HessianAlignment(recipe, LOCAL, seed=SEED, clients=5), problem, 3)[0])
    grid.close()
    assert_same_bits(*ends)
    torch.testing.assert_close(ends[0], parameters, rtol=1e-5, atol=1e-6)


# --- nothing is sent twice ---


def test_the_model_goes_into_the_object_store_once_a_round(shared_grid: Any) -> None:
    problem = five_clients()
    strategy = HessianAlignment("hgp", SYNCHRONOUS, seed=SEED, clients=5)
    before = shared_grid.broadcast.puts
    train_over(shared_grid, strategy, problem, 3)
    assert shared_grid.broadcast.puts - before == 3 * (1 + 3)  # a round: the model, and each exchange's references


def test_each_client_stays_with_its_process() -> None:
    grid = whoami_grid(clients=7)
    seen = [[reply.content["who"]["pid"] for reply in ask(grid, number)] for number in range(3)]
    grid.close()
    assert seen[0] == seen[1] == seen[2]
    assert sorted(seen[0].count(pid) for pid in set(seen[0])) == [3, 4]


def whoami(data: Mapping[int, Any]) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        action = str(message.content["do"].get(str(context.node_config["partition-id"]), ""))
        if action == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if action == "sleep":
            time.sleep(1000)
        context.state["calls"] = MetricRecord({"n": calls_of(context) + 1})
        who = {"pid": os.getpid(), "place": int(context.node_config["partition-id"]), "calls": calls_of(context)}
        return Message(RecordDict({"who": MetricRecord(who)}), reply_to=message)

    return app


def calls_of(context: Context) -> int:
    return int(context.state["calls"]["n"]) if "calls" in context.state else 0


def whoami_grid(clients: int, **options: Any) -> Any:
    from fedha.engine.host import Resources
    from fedha.engine.ray_grid import RayGrid

    return RayGrid(whoami, clients, **{"workers": 2, "resources": Resources(cpus=0.1), **options})


def ask(grid: Any, number: int, timeout: float | None = None, **actions: str) -> list[Message]:
    content = RecordDict({"do": ConfigRecord({key.removeprefix("client_"): value for key, value in actions.items()})})
    messages = [Message(content, node, "train", group_id=str(number)) for node in grid.get_node_ids()]
    return sorted(grid.send_and_receive(messages, timeout=timeout), key=lambda reply: reply.metadata.src_node_id)


# --- what goes wrong ---


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["fishr", "hgp"])
def test_a_killed_worker_starts_again_and_the_round_has_the_same_bits(recipe: str, tmp_path: Path) -> None:
    problem, row = five_clients(), replace(RECIPES[recipe], weight=9.0)
    parameters, records = train_plainly(problem, row, SYNCHRONOUS)
    notes: list[str] = []
    grid = grid_of(problem, Make(problem.model, "die", str(tmp_path / "died")), note=notes.append)
    over_grid = train_over(grid, HessianAlignment(row, SYNCHRONOUS, seed=SEED, clients=5), problem, 3)
    grid.close()
    assert (tmp_path / "died").exists()
    assert len(notes) == 1
    assert "a worker process died" in notes[0]
    assert_same_bits(over_grid[0], parameters)
    assert over_grid[1] == records


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hgp", "fishr", "groupdro"])
def test_sums_over_clients_have_the_same_bits_after_a_worker_was_killed(name: str) -> None:
    problem, row = five_clients(), RECIPES[name]
    ends = []
    for killed in (False, True):
        grid = grid_of(problem, together=True)
        strategy = HessianAlignment(row, SYNCHRONOUS, seed=SEED, clients=5)
        first = train_over(grid, strategy, problem, 2)
        if killed:
            os.kill(grid.hosts[1].wait()["pid"], signal.SIGKILL)
        again = HessianAlignment(row, SYNCHRONOUS, seed=SEED, clients=5)
        ends.append((first, train_over(grid, again, problem, 2)))
        grid.close()
    for before, after in zip(*ends, strict=True):
        assert_same_bits(before[0], after[0])
        assert before[1] == after[1]


@pytest.mark.slow
def test_a_worker_killed_between_two_exchanges_starts_again_with_its_clients_memory() -> None:
    grid = whoami_grid(clients=3)
    first = [reply.content["who"] for reply in ask(grid, 1)]
    victim = int(first[0]["pid"])
    os.kill(victim, signal.SIGKILL)
    second = [reply.content["who"] for reply in ask(grid, 2)]
    grid.close()
    assert [who["calls"] for who in second] == [2, 2, 2]
    assert victim not in [who["pid"] for who in second]
    assert first[1]["pid"] == second[1]["pid"]


@pytest.mark.slow
def test_a_worker_that_dies_again_and_again_ends_the_run() -> None:
    grid = whoami_grid(clients=4)
    with pytest.raises(FedhaError, match=r"clients 1, 3 .* died.* 3 times in one exchange.*engine.workers"):
        ask(grid, 1, client_3="die")
    assert [reply.content["who"]["place"] for reply in ask(grid, 2)] == [0, 1, 2, 3]  # the grid can still be used
    grid.close()


@pytest.fixture(scope="module")
def raising_grid(ray_started: None) -> Iterator[Any]:
    """One of its clients fails in round 2, each time."""
    problem = five_clients()
    grid = grid_of(problem, Make(problem.model, "raise"))
    yield grid
    grid.close()


def test_a_client_that_raises_may_be_passed_over_and_counted(raising_grid: Any) -> None:
    problem = five_clients()
    strategy = HessianAlignment("erm", SYNCHRONOUS, seed=SEED, clients=5, on_client_error="skip")
    _, records = train_over(raising_grid, strategy, problem, 2)
    assert [record["clients"] for record in records] == [5, 4]
    assert "d2" not in records[1]["risk"]
    who = "client 2 (domain 'd2')"
    reason = f"{who} failed to train in round 2: ValueError: a lens cap was on"
    assert strategy.talk.events == [{"event": "skipped", "client": who, "exchange": "train", "reason": reason}]


def test_a_client_that_raises_ends_the_run_with_its_own_traceback(raising_grid: Any) -> None:
    problem = five_clients()
    with pytest.raises(ClientError) as raised:
        train_over(raising_grid, HessianAlignment("hgp", SYNCHRONOUS, seed=SEED, clients=5), problem, 3)
    assert str(raised.value) == "client 2 (domain 'd2') failed to train in round 2: ValueError: a lens cap was on"
    (trace,) = raised.value.__notes__
    assert 'raise ValueError("a lens cap was on")' in trace


@pytest.mark.slow
def test_a_hung_client_is_found_and_the_others_answer(tmp_path: Path) -> None:
    problem = five_clients()
    make = Make(problem.model, "hang", str(tmp_path / "hung"))
    grid = grid_of(problem, make, client_timeout=5.0)
    strategy = HessianAlignment("erm", SYNCHRONOUS, seed=SEED, clients=5, on_client_error="skip")
    _, records = train_over(grid, strategy, problem, 3)
    grid.close()
    assert [record["clients"] for record in records] == [5, 4, 5]  # in round 3 it answers again


@pytest.mark.slow
def test_a_hung_client_s_error_says_where_it_hung() -> None:
    grid = whoami_grid(clients=3, client_timeout=3.0)
    ask(grid, 1)
    replies = ask(grid, 2, client_1="sleep")
    grid.close()
    failed = [find_failure(reply) for reply in replies]
    assert [one is not None for one in failed] == [False, True, False]
    assert failed[1] is not None
    assert "time.sleep(1000)" in failed[1].trace
    assert (failed[1].kind, failed[1].sentence) == ("TimeoutError", "took longer than engine.client_timeout, 3 s")


@pytest.mark.slow
def test_an_exchange_may_be_given_up_and_the_next_one_is_answered() -> None:
    grid = whoami_grid(clients=3)
    ask(grid, 1)
    assert [reply.content["who"]["place"] for reply in ask(grid, 2, timeout=3.0, client_1="sleep")] == [0, 2]
    assert [reply.content["who"]["place"] for reply in ask(grid, 3)] == [0, 1, 2]
    grid.close()


def test_a_worker_that_cannot_start_says_why() -> None:
    from fedha.engine.host import Resources
    from fedha.engine.ray_grid import RayGrid

    def refuse(data: Mapping[int, Any]) -> ClientApp:
        raise FedhaError("the camera is not connected")

    grid = RayGrid(refuse, 1, resources=Resources(cpus=0.1))
    with pytest.raises(FedhaError, match=r"worker of clients 0 did not start: the camera is not connected$"):
        ask(grid, 1)
    grid.close()


def test_pushed_messages_can_be_pulled_once(shared_grid: Any) -> None:
    content = RecordDict({"request": ConfigRecord({"task": ""})})
    messages = [Message(content, node, "query.introduce") for node in shared_grid.get_node_ids()]
    names = list(shared_grid.push_messages(messages))
    assert len(list(shared_grid.pull_messages(names))) == 5
    assert list(shared_grid.pull_messages(names)) == []


@given(st.integers(1, 3000), st.integers(1, 300))
def test_pieces_are_as_few_as_can_be_and_alike(count: int, most: int) -> None:
    from fedha.engine.parcels import even

    size = even(count, most)
    assert 1 <= size <= most
    pieces = [min(size, count - start) for start in range(0, count, size)]
    assert len(pieces) == -(-count // most)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.integers(1, 5))
def test_work_is_spread_evenly(loads: list[int], workers: int) -> None:
    from fedha.engine.ray_grid import spread

    held = spread(loads, workers)
    assert sorted(place for places in held for place in places) == list(range(len(loads)))
    assert all(places == sorted(places) and places for places in held)
    work = [sum(max(1, loads[place]) for place in places) for places in held]
    assert len(held) == min(workers, len(loads))
    assert max(work) - min(work) <= max(max(1, load) for load in loads)
