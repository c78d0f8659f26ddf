"""Messages and checkpoints that are damaged are refused in a sentence, and nothing is half changed."""

import copy
import json
import random
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from fedha.client_state import ClientState, to_tensors
from fedha.config import TrainingConfig
from fedha.engine.inline import InlineGrid
from fedha.errors import ClientError, FedhaError
from fedha.exchange import Request, Task
from fedha.federation import Server
from fedha.flower import HessianAlignment, client_app
from fedha.flower.wire import pack_reply, pack_request, pack_task, pack_tensors, unpack_reply
from fedha.recipes import RECIPES
from fedha.runs.checkpoint import load_checkpoint, read_saved, save_checkpoint
from fedha.runs.files import STATE
from tests.mutations import damaged_bytes
from tests.problems import SEED, make_problem

COUNT = 300
TRAINING = TrainingConfig(rounds=10, optimizer="adam", learning_rate=0.01)
VALUES = (float("nan"), float("inf"), -1, 1.7, 10**18, "text", b"\0", True, [1.5], ["a"])


def as_sent(content: RecordDict) -> RecordDict:
    """Arrays as bytes, as they come over a network."""
    sent = {}
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            sent[name] = ArrayRecord({key: Array(array.numpy()) for key, array in record.items()})
        else:
            sent[name] = type(record)(dict(record))
    return RecordDict(sent)


def damaged(content: RecordDict, chance: random.Random) -> RecordDict:
    found = RecordDict(dict(as_sent(content)))
    name = chance.choice(list(found))
    record = found[name]
    if chance.random() < 0.15:
        del found[name]
    elif chance.random() < 0.15:
        found[name] = ConfigRecord({"a": 1})
    elif isinstance(record, ArrayRecord) and record:
        key = chance.choice(list(record))
        record[key] = damaged_array(record[key], chance)
    elif len(record):
        key = chance.choice(list(record))
        if chance.random() < 0.3:
            del record[key]
        else:
            changed = {**dict(record), key: chance.choice(VALUES)}
            try:
                found[name] = type(record)(changed)
            except (TypeError, ValueError):  # Flower does not send it either
                found[name] = ConfigRecord({"a": chance.choice([1, "b"])})
    return found


def damaged_array(array: Array, chance: random.Random) -> Array:
    data = next(damaged_bytes(array.data, 1, chance.randrange(10**9))) if chance.random() < 0.6 else array.data
    shape = chance.choice([array.shape, (10_000, 10_000), (3,), (-1, 2), ()])
    kind = chance.choice([array.dtype, "float64", "int8", "O", "U9", "float16"])
    return Array(dtype=kind, shape=shape, stype=chance.choice([array.stype, "torch"]), data=data)


def request() -> RecordDict:
    problem = make_problem(precision="float32")
    parameters = {name: value.detach() for name, value in problem.model.named_parameters()}
    task = Task(RECIPES["exact_diagonal"], TRAINING, SEED)
    asked = Request(task, 1, parameters, measure=("gradient", "hessian_diagonal"), averaging_weight=1 / 3)
    return pack_request(asked, pack_tensors(parameters), pack_tensors({}), pack_task(task))


def test_a_client_answers_damaged_requests_with_a_sentence() -> None:
    problem, chance = make_problem(precision="float32"), random.Random(1)
    app = client_app(lambda _: problem.model, lambda c: problem.domains[int(c.node_config["partition-id"])])
    grid, whole, answered = InlineGrid(app, 3), request(), 0
    for _ in range(COUNT):
        (reply,) = grid.send_and_receive([Message(damaged(whole, chance), 2, "query.measure", group_id="1")])
        failed = reply.content.get("failure")
        answered += failed is None
        if failed is not None:
            assert failed["kind"] == "FedhaError", (failed["kind"], failed["sentence"], failed["trace"])
            assert len(failed["sentence"]) < 2000
    assert answered < COUNT / 2


def test_a_server_takes_damaged_replies_by_the_rule() -> None:
    problem, chance = make_problem(precision="float32"), random.Random(2)
    app = client_app(lambda _: problem.model, lambda c: problem.domains[int(c.node_config["partition-id"])])

    class Damaging(InlineGrid):
        whole: RecordDict | None = None

        def send_and_receive(self, messages, *, timeout=None):
            for reply in super().send_and_receive(messages, timeout=timeout):
                if reply.metadata.src_node_id == 3 and reply.metadata.message_type != "query.introduce":
                    reply.content = damaged(reply.content, chance)
                yield reply

    start = pack_tensors(dict(problem.model.named_parameters()))
    said = []
    for _ in range(COUNT // 3):
        strategy = HessianAlignment("exact_diagonal", TRAINING, seed=SEED, clients=3)
        try:
            strategy.start(Damaging(app, 3), start, num_rounds=1)
        except (FedhaError, ClientError) as error:
            said.append(str(error))
    assert len(said) > COUNT // 10
    assert [one for one in said if "client 1" not in one or len(one) > 2000] == []


def test_what_an_array_says_makes_no_room_for_more_than_it_has() -> None:
    header = str({"descr": "<f4", "fortran_order": True, "shape": (10_000, 1_000)}).encode()
    header += b" " * (-(10 + len(header) + 1) % 64) + b"\n"
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\0" * 400
    array = Array(dtype="float32", shape=(10_000, 1_000), stype="numpy.ndarray", data=data)
    whole = as_sent(pack_reply(make_problem().clients()[0].reply({"gradient": torch.zeros(2)})))
    whole["tensors"] = ArrayRecord({"gradient": array})
    tracemalloc.start()
    try:
        with pytest.raises(FedhaError, match="a reply cannot be read"):
            unpack_reply(whole)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


SIX = np.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize("value", [SIX, np.asfortranarray(SIX), np.array(3.5)])
def test_arrays_that_somebody_else_wrote_are_read(value: np.ndarray) -> None:
    content = as_sent(pack_reply(make_problem().clients()[0].reply({"a": torch.zeros(2)})))
    content["tensors"] = ArrayRecord({"a": Array(value)})
    found = unpack_reply(content).tensors
    assert torch.equal(found["a"], torch.from_numpy(np.ascontiguousarray(value)).reshape(value.shape))


def made_checkpoint(folder: Path) -> Server:
    problem = make_problem()
    server = Server(Task(RECIPES["fishr"], TRAINING, SEED), dict(problem.model.named_parameters()))
    server.states["adam"] = {name: torch.full_like(value, 0.5) for name, value in server.states["adam"].items()}
    folder.mkdir()
    clients = [to_tensors(ClientState({"gradient_variance": torch.ones(2)})), {}]
    save_checkpoint(folder, 3, server, clients, {"round": 3}, {"seed": [0]}, "abc")
    return server


def test_damaged_checkpoints_are_refused_and_the_server_stays_as_it_was(tmp_path: Path) -> None:
    server = made_checkpoint(tmp_path / "run")
    whole = (tmp_path / "run" / STATE).read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    header, rest = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    chance, said = random.Random(5), []
    contents = list(damaged_bytes(whole, COUNT // 2))
    for _ in range(COUNT // 2):
        changed = copy.deepcopy(header)
        state = json.loads(changed["__metadata__"]["state"])
        state[chance.choice(list(state))] = chance.choice([None, "x", [], {}, -1, 10**12, 1.5, {"a": {"b": 1}}, [[1]]])
        changed["__metadata__"]["state"] = json.dumps(state)
        text = json.dumps(changed).encode()
        contents.append(struct.pack("<Q", chance.choice([len(text)] * 9 + [2**62])) + text + rest)
    before = {name: value.clone() for name, value in server.parameters.items()}
    for content in contents:
        (tmp_path / "run" / STATE).write_bytes(content)
        for name, value in server.parameters.items():
            value.detach().copy_(before[name])
        try:
            read_saved(tmp_path / "run")
            load_checkpoint(tmp_path / "run", server)
        except FedhaError as error:
            same = all(torch.equal(value, before[name]) for name, value in server.parameters.items())
            said.append((same, len(str(error)) < 2000))
    assert len(said) > COUNT / 2
    assert set(said) == {(True, True)}
