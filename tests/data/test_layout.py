"""Laws of images of a user's: channels first, bytes over their range, or a question."""

from pathlib import Path

import numpy
import pytest
import torch

from fedha import data
from fedha.config import DataConfig, ModelConfig
from fedha.data.layout import layout_of
from fedha.errors import FedhaError
from fedha.models import build


def axes(shape, dtype="float32", **options):
    return layout_of("x", numpy.dtype(dtype), (5, *shape), DataConfig(name="arrays", **options))


@pytest.mark.parametrize("shape", [(28, 28, 3), (28, 28, 1), (32, 48, 3), (64, 64, 13), (4, 4, 2), (100, 60, 4)])
def test_channels_that_are_last_move_to_the_front(shape):
    assert axes(shape).axes == (0, 3, 1, 2)


@pytest.mark.parametrize("shape", [(3, 28, 28), (1, 28, 28), (3, 32, 48), (13, 64, 64), (2, 4, 4), (64, 7, 7)])
def test_channels_that_are_first_stay(shape):
    assert axes(shape).axes == (0, 1, 2, 3)


@pytest.mark.parametrize("shape", [(8, 8, 8), (3, 28, 3), (7, 9, 11), (28, 3, 3), (1, 1, 1)])
def test_what_could_be_either_is_asked_for(shape):
    with pytest.raises(FedhaError, match=r"set data.layout to channels_first or channels_last"):
        axes(shape)
    assert axes(shape, layout="channels_first").axes == (0, 1, 2, 3)
    assert axes(shape, layout="channels_last").axes == (0, 3, 1, 2)


def test_a_layout_of_what_is_no_image_is_refused():
    with pytest.raises(FedhaError, match=r"data.layout is 'channels_last' but inputs of x have shape"):
        axes((7,), layout="channels_last")


@pytest.mark.parametrize(
    ("dtype", "shape", "divisor"),
    [
        ("uint8", (3, 8, 8), 255),
        ("uint8", (8, 8), 255),
        ("uint16", (8, 8, 3), 65535),
        ("uint8", (64,), 1),
        ("int64", (3, 8, 8), 1),
        ("int16", (8, 8), 1),
        ("uint32", (8, 8), 1),
        ("bool", (8, 8), 1),
        ("float32", (3, 8, 8), 1),
    ],
)
def test_images_of_bytes_are_scaled_and_nothing_else(dtype, shape, divisor):
    assert axes(shape, dtype).divisor == divisor
    assert axes(shape, dtype, scale=10).divisor == 10
    assert (axes(shape, dtype).note == "") == (divisor == 1 and shape[-1] != 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate("abt"):
        pixels = numpy.random.default_rng(seed).integers(0, 256, (20, 28, 28, 3), dtype="uint8")
        (tmp_path / name).mkdir()
        for place in (tmp_path, tmp_path / name):
            numpy.savez(place / f"{name}.npz", inputs=pixels, labels=[0, 1] * 10)
    return tmp_path


def test_bytes_with_channels_last_become_images_in_simulations_and_at_sites(folder: Path) -> None:
    options = {"name": "arrays", "target": "t", "classes": 2}
    found = data.load(DataConfig(root=folder, **options), 0)
    assert found.input_shape == (3, 28, 28)
    assert "inputs uint8 [28, 28, 3]: channels moved from last to first; divided by 255" in found.description
    raw = torch.from_numpy(numpy.load(folder / "t.npz")["inputs"]).permute(0, 3, 1, 2) / 255
    assert torch.equal(found.targets[0].held_out.take(), raw)
    assert torch.equal(data.load_targets(DataConfig(root=folder / "t", **options), 0)[0].held_out.take(), raw)
    own = data.load_own(DataConfig(root=folder / "b", **options), 0, 1)
    assert torch.equal(own.train.inputs, found.sources[1].train.inputs)
    assert "divided by 255" in " ".join(data.notes_of(own, 2))
    model = build(ModelConfig(name="cnn", hidden=[4]), found.input_shape, 2, 0)
    assert model(own.train.take()).shape == (16, 2)


def test_a_scale_of_ones_own_is_taken(folder: Path) -> None:
    found = data.load(DataConfig(name="arrays", root=folder, target="t", scale=1, layout="channels_first"), 0)
    assert found.input_shape == (28, 28, 3)
    assert found.targets[0].held_out.inputs.max() == 255
