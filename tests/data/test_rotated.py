"""Digits that are turned: every k-th image to an angle, as DomainBed turns them, each site its own."""

from pathlib import Path

import numpy
import pytest
import torch

from fedha import data
from fedha.config import DataConfig, parse
from fedha.data import digits
from fedha.data.rotated import turned
from fedha.errors import FedhaError
from fedha.randomness import generator


def config(**section: object) -> DataConfig:
    return parse({"data": {"name": "rotated_digits", "target": "75", **section}}).data


def test_every_sixth_image_of_one_shuffle_is_turned_to_an_angle() -> None:
    found = data.load(config(held_out=0), 3)
    assert [one.name for one in (*found.sources, *found.targets)] == ["0", "15", "30", "45", "60", "75"]
    pixels, labels = digits.as_bytes()
    order = torch.randperm(1797, generator=generator(3, "data", "shuffle"))
    for first, domain in enumerate((*found.sources, *found.targets)):
        part = order[first::6]
        whole = domain.held_out if first == 5 else domain.train
        wanted = turned(pixels[part].numpy(), 15.0 * first)
        rows = {
            one.numpy().tobytes() + bytes([int(label)]) for one, label in zip(whole.inputs, whole.labels, strict=True)
        }
        assert rows == {one.tobytes() + bytes([int(label)]) for one, label in zip(wanted, labels[part], strict=True)}
    assert float(found.sources[0].train.take().max()) == 1.0


def test_quarter_turns_are_exact_and_nothing_else_moves() -> None:
    images = numpy.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=numpy.uint8)
    assert numpy.array_equal(turned(images, 90), numpy.rot90(images, axes=(1, 2)))
    assert numpy.array_equal(turned(images, 0), images)
    assert turned(images, 45)[:, 0, 0].tolist() == [0, 0, 0]  # black outside


def test_they_are_turned_as_torchvision_turns_them_for_domainbed() -> None:
    functional = pytest.importorskip("torchvision.transforms.functional")
    images = numpy.random.default_rng(1).integers(0, 256, (2, 28, 28), dtype=numpy.uint8)
    for angle in (15, 75):
        wanted = [
            functional.rotate(
                functional.to_pil_image(torch.from_numpy(one)),
                angle,
                fill=(0,),
                interpolation=functional.InterpolationMode.BILINEAR,
            )
            for one in images
        ]
        assert numpy.array_equal(turned(images, angle), numpy.stack([numpy.asarray(one) for one in wanted]))


def test_a_site_and_a_server_have_their_own_alone() -> None:
    section = config(sources=["30", "0"])
    found = data.load(section, 1)
    assert [data.load_own(section, 1, place).name for place in (0, 1)] == ["30", "0"]
    own = data.load_own(section, 1, 1)
    assert torch.equal(own.train.take(), found.sources[1].train.take())
    assert [one.name for one in data.load_targets(section, 1)] == ["75"]
    assert data.class_count(section) == 10


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"target": None}, r"data\.target is not set; name the unseen domain, one of 0, 15, 30"),
        ({"target": "76"}, r"data\.target names '76', .*did you mean '75'"),
        ({"angles": ["0", "tilted"]}, r"data\.angles is 'tilted'"),
        ({"angles": ["0", "400"]}, r"data\.angles is 400.*less than 360"),
        ({"angles": ["75", "75.0"]}, r"data\.angles is 75, 75; give every angle once"),
        ({"images": "3"}, r"data\.images is 3; give 6, one an angle, to 1,797"),
        ({"angels": ["0"]}, r"'angels' is none; did you mean 'angles'"),
    ],
)
def test_what_does_not_fit_is_a_sentence(section: dict, message: str) -> None:
    with pytest.raises(FedhaError, match=message):
        data.load(config(**section), 0)


def test_mnist_needs_its_files(tmp_path: Path) -> None:
    section = {"name": "rotated_mnist", "target": "0"}
    with pytest.raises(FedhaError, match=r"data\.root is not set; .*fedha data fetch mnist"):
        data.load(config(**section), 0)
    with pytest.raises(FedhaError, match=r"train-images-idx3-ubyte .* is not in .*"):
        data.load(config(**section, root=str(tmp_path)), 0)


def test_rotated_mnist_shuffles_both_parts_together(shared_data: Path) -> None:
    found = data.load(config(name="rotated_mnist", root=str(shared_data / "mnist"), images="600", held_out="0.5"), 0)
    assert [len(one.train) for one in found.sources] == [50] * 5
    assert found.input_shape == (1, 28, 28)
    assert len(found.targets[0].held_out) == 100
    assert found.classes == 10
