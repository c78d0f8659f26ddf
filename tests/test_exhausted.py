"""Where memory ends, a sentence names what to lower; real allocations that no machine has."""

from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from torch import Tensor, nn

import fedha
from fedha.cli.exits import exit_code
from fedha.config import parse
from fedha.data import Domain, Examples
from fedha.errors import FedhaError
from fedha.exhausted import REMEDY, out_of_memory
from fedha.models import SplitModel
from fedha.run import execute
from fedha.runs.listener import Silent

NO_MACHINE = 2**46
SIZE = 7


class Greedy(nn.Module):
    """Asks for 64 TiB where it is trained: what looks at a network's shapes sends two examples."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + inputs.new_empty(NO_MACHINE // 4)[0] if len(inputs) == SIZE else inputs


def raised(ask: Callable[[], object]) -> BaseException:
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        ask()
    return caught.value


@pytest.mark.parametrize(
    "ask", [lambda: torch.empty(NO_MACHINE), lambda: numpy.ones(NO_MACHINE), lambda: bytearray(2**62)]
)
def test_what_torch_numpy_and_python_say_is_known(ask: Callable[[], object]) -> None:
    sentence = out_of_memory(raised(ask))
    assert sentence is not None
    assert sentence.startswith("out of memory")
    for key in ("training.chunk", "batch_size", "engine.workers"):
        assert key in sentence


def test_cuda_says_how_much_was_asked_for() -> None:
    said = "CUDA out of memory. Tried to allocate 5.40 GiB. GPU 0 has a total capacity of 79.10 GiB"
    assert out_of_memory(torch.OutOfMemoryError(said)) == f"out of memory, 5.40 GiB were asked for at once: {REMEDY}"


def test_any_other_error_is_none() -> None:
    for error in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("out of memory"), KeyError(3)):
        assert out_of_memory(error) is None


def test_a_client_that_runs_out_of_memory_ends_the_run_in_a_sentence(tmp_path: Path) -> None:
    part = Examples(torch.ones(SIZE, 3), torch.tensor([0, 1, 0, 1, 0, 1, 1]))
    seen = [Domain("a", part, part), Domain("b", part, part)]
    hungry = SplitModel(nn.Sequential(nn.Linear(3, 3), Greedy()), nn.Linear(3, 2))
    with pytest.raises(FedhaError, match=r"out of memory, 70,368,744 MB were asked for at once: lower training.chunk"):
        fedha.simulate(seen, hungry, "erm", training={"rounds": 1}, out=tmp_path / "run")


def test_a_command_that_runs_out_of_memory_ends_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(lambda **_: torch.empty(NO_MACHINE)) == 2
    assert capsys.readouterr().err.startswith("fedha: out of memory, ")


def test_a_network_that_does_not_fit_at_the_server_is_a_sentence(tmp_path: Path) -> None:
    config = parse({"recipe": "erm", "model": {"hidden": [4_000_000, 4_000_000]}, "engine": {"name": "inline"}})
    with pytest.raises(FedhaError, match="out of memory"):
        execute(config, tmp_path / "run", Silent())
