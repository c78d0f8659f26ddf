"""Runs on whatever keeps the examples: token ids, mapped files, several inputs, sources of one's own."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy
import pytest
import torch
from torch import Tensor

import fedha
from fedha.config import parse
from fedha.data.domain import Domain
from fedha.data.examples import Draws, Examples
from fedha.errors import FedhaError
from fedha.run import execute
from fedha.runs.listener import Silent
from tests import models_of_others
from tests.data.image_folders import image_folder

ROWS = 24
LOCAL = {"mode": "local", "rounds": 2, "local": {"steps": 3, "batch_size": 7}}
WHOLE = {"rounds": 2, "optimizer": "sgd", "learning_rate": 0.1}
PRIVATE = {"protect": "examples", "noise_multiplier": 1.0, "statistics_noise": 1.0}


def domains(make: Callable[[torch.Generator, int], object]) -> list[Domain]:
    """Three domains whose inputs a function makes."""
    made = []
    for place in range(3):
        draws = torch.Generator().manual_seed(place)
        labels = torch.arange(ROWS) % 2
        whole = Examples(make(draws, ROWS), labels)
        made.append(Domain(f"d{place}", whole.select(slice(16)), whole.select(slice(16, None))))
    return made


def tokens(draws: torch.Generator, rows: int) -> Tensor:
    return torch.randint(0, 20, (rows, 6), generator=draws)


def named(draws: torch.Generator, rows: int) -> dict[str, Tensor]:
    return {"tokens": tokens(draws, rows), "numbers": torch.randn(rows, 3, generator=draws)}


def trained(given: list[Domain], model: object, recipe: str = "exact_diagonal", **more: object) -> dict[str, Tensor]:
    more = {"training": LOCAL, "engine": "inline", **more}
    return dict(fedha.simulate(given, model, recipe, target="d2", **more).model.named_parameters())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("training", [LOCAL, WHOLE, {**WHOLE, "batch_size": 5}, {**WHOLE, "chunk": 3}])
@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.uint8])
def test_token_ids_reach_an_embedding_as_they_are(training: dict, kind: torch.dtype) -> None:
    given = domains(lambda draws, rows: tokens(draws, rows).to(kind))
    found = trained(given, models_of_others.reads_words, training=training)
    assert same(found, trained(domains(tokens), models_of_others.reads_words, training=training))
    assert float((found["featurizer.embedding.weight"]).abs().max()) > 0


def test_ids_beyond_float32_are_told_apart() -> None:
    large = 2**24 + 1  # float32 knows no such number
    examples = Examples(torch.tensor([[large, large - 1]]), torch.tensor([0]))
    (found,) = fedha_placed(examples).take()
    assert found.tolist() == [large, large - 1]


def fedha_placed(examples: Examples) -> Examples:
    from fedha.placement import placed

    return placed(examples, models_of_others.reads_words())


def test_whole_numbers_are_floats_to_a_network_that_takes_no_others() -> None:
    given = domains(tokens)
    floats = [replace(one, train=floating(one.train), held_out=floating(one.held_out)) for one in given]
    assert same(trained(given, models_of_others.fitted), trained(floats, models_of_others.fitted))


def floating(examples: Examples) -> Examples:
    return replace(examples, inputs=examples.inputs.float())


def test_pixels_of_a_program_are_divided_and_it_is_said() -> None:
    given = domains(lambda draws, rows: torch.randint(0, 256, (rows, 3, 4, 4), generator=draws).to(torch.uint8))
    result = fedha.simulate(given, models_of_others.fitted, "erm", target="d2", training=WHOLE)
    assert "inputs uint8 [3, 4, 4]: divided by 255" in result.model.expects.data
    floats = [replace(one, train=scaled(one.train), held_out=scaled(one.held_out)) for one in given]
    assert same(trained(given, models_of_others.fitted), trained(floats, models_of_others.fitted))


def scaled(examples: Examples) -> Examples:
    return replace(examples, inputs=examples.inputs.float() / 255)


@pytest.mark.parametrize("by_name", [True, False])
@pytest.mark.parametrize("training", [LOCAL, {**WHOLE, "chunk": 3}])
def test_several_inputs_are_arguments(by_name: bool, training: dict) -> None:
    given = domains(named if by_name else lambda draws, rows: tuple(named(draws, rows).values()))
    found = trained(given, models_of_others.reads_both, training=training)
    assert same(found, trained(domains(named), models_of_others.reads_both, training=training))
    result = fedha.simulate(given, models_of_others.reads_both, "vrex", target="d2", training=training)
    shape = {"tokens": (6,), "numbers": (3,)} if by_name else ((6,), (3,))
    assert result.model.expects.input_shape == shape


@pytest.mark.parametrize("make", [tokens, named])
def test_private_steps_take_them(make: Callable[[torch.Generator, int], object]) -> None:
    model = models_of_others.reads_words if make is tokens else models_of_others.reads_both
    training = {"mode": "local", "rounds": 1, "local": {"steps": 2}}
    first, second = (trained(domains(make), model, training=training, privacy=PRIVATE) for _ in range(2))
    assert same(first, second)


@pytest.mark.parametrize("make", [tokens, named])
def test_a_worker_gets_them_alike(make: Callable[[torch.Generator, int], object]) -> None:
    model = models_of_others.reads_words if make is tokens else models_of_others.reads_both
    here, there = (
        trained(domains(make), model, engine={"name": name, "batching": False}) for name in ("inline", "ray")
    )
    assert same(here, there)


@dataclass(frozen=True)
class Noisy:
    """A source of one's own: numbers made when they are asked for, moved by chance where they are trained on."""

    seed: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (ROWS, 4)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def __len__(self) -> int:
        return ROWS

    def take(self, rows: Tensor, draws: Draws | None) -> Tensor:
        made = []
        for row in rows.tolist():
            key = [self.seed, row, *(draws or ())]
            made.append(torch.from_numpy(numpy.random.default_rng(key).normal(size=4).astype("f4")))
        return torch.stack(made) if made else torch.zeros(0, 4)


def test_a_source_of_ones_own_is_drawn_by_seed_round_and_client_alone() -> None:
    given = [
        replace(one, train=Examples(Noisy(place), torch.arange(ROWS) % 2)) for place, one in enumerate(domains(numbers))
    ]
    first, second = (
        trained(given, models_of_others.fitted, engine={"name": name, "batching": False}) for name in ("inline", "ray")
    )
    assert same(first, second)
    assert not same(first, trained(given, models_of_others.fitted, seed=1))


def test_a_source_that_gives_another_shape_than_it_says_is_refused() -> None:
    class Narrow(Noisy):
        def take(self, rows: Tensor, draws: Draws | None) -> Tensor:
            return super().take(rows, draws)[:, :1]

    with pytest.raises(FedhaError, match=r"take of Narrow gives inputs of shape \(1,\), but its shape says"):
        Examples(Narrow(0), torch.zeros(ROWS, dtype=torch.int64)).take(slice(0, 2))


@pytest.mark.parametrize(
    ("give", "told"),
    [
        (lambda made, rows: made.numpy(), "take of Other gives a ndarray; let it return a tensor, one input a row"),
        (lambda made, rows: None, "take of Other gives a NoneType; let it return a tensor"),
        (lambda made, rows: made[:-1], r"take of Other gives 7 inputs for 8 rows; let it return one a row"),
        (lambda made, rows: {}[int(rows[0])], r"take of Other fails for rows 2, 3, 4, 5, 6, 7, 8, 9 of its 24: KeyE"),
    ],
)
def test_what_a_source_raises_or_gives_is_one_sentence_with_domain_class_and_rows(
    give: Callable[[Tensor, Tensor], object], told: str
) -> None:
    class Other(Noisy):
        def take(self, rows: Tensor, draws: Draws | None) -> Tensor:
            return give(super().take(rows, draws), rows)  # type: ignore[return-value]  # which is the point

    examples = Examples(Other(0), torch.arange(ROWS) % 2)
    with pytest.raises(FedhaError, match=told):
        examples.take(slice(2, 10))
    one = Domain("east", examples.select(slice(2, 10)), examples.select(slice(12, 16)))
    with pytest.raises(FedhaError, match=rf"domain 'east' \(train\): {told}"):
        trained([one, *domains(numbers)[1:]], models_of_others.fitted)


def test_a_source_that_fails_in_the_midst_of_a_run_is_its_clients_sentence() -> None:
    class Late(Noisy):
        def take(self, rows: Tensor, draws: Draws | None) -> Tensor:
            if draws is not None and draws[1] == 2:
                raise OSError("the share is gone")
            return super().take(rows, draws)

    given = [replace(one, train=Examples(Late(0), torch.arange(ROWS) % 2)) for one in domains(numbers)]
    told = r"client 0 \(domain 'd0'\) failed to train in round 2: take of Late fails for rows .* OSError: the share is"
    with pytest.raises(FedhaError, match=told):
        trained(given, models_of_others.fitted, recipe="erm")


def test_a_source_that_no_worker_can_have_is_refused_before_the_first_round() -> None:
    class Locked(Noisy):
        def __getstate__(self) -> object:
            raise TypeError("cannot pickle an open file")

    labels = torch.arange(ROWS) % 2
    given = [replace(one, train=Examples(Locked(place), labels)) for place, one in enumerate(domains(numbers))]
    with pytest.raises(FedhaError, match=r"domain 'd0' are a Locked that cannot be sent to a worker: cannot"):
        trained(given, models_of_others.fitted, engine="ray")


def numbers(draws: torch.Generator, rows: int) -> Tensor:
    return torch.randn(rows, 4, generator=draws)


def test_a_mapped_file_trains_like_memory(tmp_path: Path) -> None:
    held = domains(numbers)
    mapped = []
    for one in held:
        parts = {}
        for part in ("train", "held_out"):
            path = tmp_path / f"{one.name}-{part}.npy"
            numpy.save(path, getattr(one, part).inputs.numpy())
            parts[part] = Examples(numpy.load(path, mmap_mode="r"), getattr(one, part).labels)
        mapped.append(replace(one, **parts))
    expected = trained(held, models_of_others.fitted)
    for engine in ("inline", "ray"):
        assert same(expected, trained(mapped, models_of_others.fitted, engine={"name": engine, "batching": False}))


def test_a_name_that_the_network_does_not_take_is_refused() -> None:
    given = domains(lambda draws, rows: {"words": tokens(draws, rows), "numbers": torch.zeros(rows, 3)})

    def make() -> object:
        return models_of_others.reads_both({"tokens": (6,), "numbers": (3,)})

    with pytest.raises(FedhaError, match=r"cannot take the inputs of domain 'd0'.*unexpected keyword argument 'words'"):
        trained(given, make)


def test_inputs_that_differ_in_number_are_refused() -> None:
    given = domains(lambda draws, rows: {"tokens": tokens(draws, rows), "numbers": torch.zeros(rows - 1, 3)})
    with pytest.raises(FedhaError, match=r"domain 'd0' has 7 held-out inputs 'numbers' but 8 labels"):
        trained(given, models_of_others.reads_both)


@pytest.mark.parametrize("augment", ["none", "domainbed"])
def test_images_in_folders_are_the_same_at_workers(tmp_path: Path, augment: str) -> None:
    if augment != "none":
        pytest.importorskip("torchvision")
    root = image_folder(tmp_path / "images")
    data = {"name": "folder", "root": str(root), "target": "sketch", "size": 6, "augment": augment}
    content = {"data": data, "model": {"name": "cnn", "hidden": [3]}, "training": {"rounds": 2}, "seed": 0}
    ends = []
    for name in ("inline", "ray"):
        config = parse({**content, "engine": {"name": name, "batching": False}})
        execute(config, tmp_path / name, Silent())
        ends.append((tmp_path / name / "model.safetensors").read_bytes())
    assert ends[0] == ends[1]
