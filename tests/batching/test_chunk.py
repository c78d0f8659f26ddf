"""How clients are grouped, and which rows a step takes."""

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedha.batching.chunk import cache_bytes, group, stack
from fedha.batching.rows import runs, steps, whole
from fedha.config import ModelConfig
from fedha.exchange import Request, Task
from fedha.minibatches import minibatches
from fedha.recipes import RECIPES
from tests.batching.twins import local, make_cohort

CPU = torch.device("cpu")


@given(st.lists(st.integers(1, 100), max_size=30), st.integers(1, 300), st.booleans())
def test_chunks_hold_each_client_once_and_fit_the_budget(sizes: list[int], budget: int, ordered: bool) -> None:
    chunks = group(sizes, lambda size: size, budget, ordered)
    assert sorted(place for chunk in chunks for place in chunk) == list(range(len(sizes)))
    for chunk in chunks:
        assert len(chunk) == 1 or sum(sizes[place] for place in chunk) <= budget
        if ordered:
            assert sizes[chunk[-1]] >= 0.75 * sizes[chunk[0]] == 0.75 * max(sizes[place] for place in chunk)
    if not ordered:
        assert [place for chunk in chunks for place in chunk] == list(range(len(sizes)))


def test_equal_clients_that_fit_are_one_chunk() -> None:
    assert group([5, 5, 5], lambda size: size, 15) == [[0, 1, 2]]
    assert group([5, 5, 5], lambda size: size, 14) == [[0, 1], [2]]


@given(st.lists(st.integers(0, 2), max_size=12))
def test_runs_are_the_longest_neighbours_of_one_key(keys: list[int]) -> None:
    found = list(runs(keys))
    assert [key for places, key in found for _ in keys[places]] == keys
    assert all(one[1] != other[1] for one, other in itertools.pairwise(found))


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("options", [{"epochs": 2, "batch_size": 4}, {"steps": 7, "batch_size": 4}, {"steps": 2}])
def test_steps_take_the_rows_that_each_client_draws_alone(options: dict[str, int], pad: bool) -> None:
    clients = make_cohort(ModelConfig(hidden=[2]), (4,), sizes=(13, 11, 11, 9, 3))
    request = Request(Task(RECIPES["erm"], local(**options), 7), 2, {})
    chunk = stack(clients, [request] * 5, range(5))
    places = torch.arange(5 * 13).view(5, 13)  # names each row of the chunk
    expected = [list(minibatches(request, n, k)) for k, n in enumerate(chunk.sizes)]
    ended = []
    for number, (batches, ending) in enumerate(steps(chunk.sizes, range(5), request, pad, CPU)):
        seen = set()
        for batch in batches:
            taken = batch.take(places)
            counts = torch.full(taken.shape, 1 / batch.rows) if batch.weights is None else batch.weights
            for row, k in enumerate(range(5)[batch.clients]):
                rows = expected[k][number]
                drawn = torch.arange(chunk.sizes[k])[slice(None) if rows is None else rows]
                assert (taken[row, counts[row] > 0] - 13 * k).tolist() == drawn.tolist()
                assert counts[row].sum() == pytest.approx(1)
                seen.add(k)
        assert seen == {k for k in range(5) if number < len(expected[k])}
        ended += [(k, number + 1) for clients in ending for k in range(5)[clients]]
    assert sorted(ended) == [(k, len(expected[k])) for k in range(5)]


def test_whole_domains_of_one_size_are_one_batch_without_a_copy() -> None:
    data = torch.randn(3, 4, 2)
    (batch,) = whole([4, 4, 4], False, CPU)
    assert batch.take(data).data_ptr() == data.data_ptr()
    assert [one.clients for one in whole([4, 4, 2], False, CPU)] == [slice(0, 2), slice(2, 3)]
    (padded,) = whole([4, 4, 2], True, CPU)
    assert padded.mean(torch.ones(3, 4)).tolist() == [1, 1, 1]


def write_cache(root: Path, name: str, kind: str, size: str, cores: str) -> None:
    (root / name).mkdir()
    for file, text in (("type", kind), ("size", size), ("shared_cpu_list", cores)):
        (root / name / file).write_text(text + "\n")


def test_the_cache_is_this_cores_part_of_the_largest(tmp_path: Path) -> None:
    write_cache(tmp_path, "index1", "Instruction", "64M", "0")
    write_cache(tmp_path, "index2", "Unified", "1024K", "0")
    write_cache(tmp_path, "index3", "Unified", "32M", "0-2,8")
    write_cache(tmp_path, "index4", "Unified", "unknown", "0")
    assert cache_bytes(tmp_path) == 8 * 2**20
    (tmp_path / "index3" / "shared_cpu_list").write_text("0-63")
    cache_bytes.cache_clear()
    assert cache_bytes(tmp_path) == 2**20


def test_without_a_word_about_caches_there_is_a_fallback(tmp_path: Path) -> None:
    assert cache_bytes(tmp_path / "nowhere") == 8 * 2**20
