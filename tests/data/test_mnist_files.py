"""The real MNIST files give the published environments, number for number; skipped where the files are not at hand."""

import hashlib

import pytest
import torch
from scipy.stats import binom

from fedha.config import DataConfig
from fedha.data import load, mnist
from fedha.data.idx import find, unpack


@pytest.fixture(scope="module")
def folder(shared_data):
    folder = shared_data / "mnist"
    if not folder.is_dir():
        pytest.skip(f"needs MNIST's files: {folder} is no folder")
    return folder


@pytest.fixture(scope="module")
def published(folder):
    return load(DataConfig(name="colored_mnist", root=folder, grayscale_target=True), seed=0)


def test_the_published_digests_are_those_of_the_real_files(folder):
    for file in (*mnist.TRAIN, *mnist.TEST):
        content = unpack(find(folder, file).read_bytes(), file)
        assert hashlib.sha256(content).hexdigest() == file.sha256
        assert len(content) == file.size


def test_the_published_sizes(published):
    assert [len(domain.train) for domain in published.sources] == [25_000, 25_000]
    assert [len(domain.held_out) for domain in published.sources] == [5_000, 5_000]
    assert [(domain.name, len(domain.held_out)) for domain in published.targets] == [
        ("target", 10_000),
        ("grayscale", 10_000),
    ]
    assert published.input_shape == (2, 14, 14)


def test_the_published_images_are_every_second_row_and_column(published, folder):
    raw = unpack(find(folder, mnist.TRAIN[0]).read_bytes(), mnist.TRAIN[0])
    start = 16 + 59_999 * 784
    image = torch.tensor(list(raw[start : start + 784])).reshape(28, 28)[::2, ::2] / 255
    assert torch.equal(published.targets[1].held_out.inputs[-1], image.expand(2, 14, 14))
    assert torch.equal(published.targets[0].held_out.inputs[-1].sum(0), image)


def test_the_published_flips_and_noise(published, folder):
    parts = [domain.train for domain in published.sources] + [published.targets[0].held_out]
    for part, flip in zip(parts, (0.2, 0.1, 0.9), strict=True):
        color = part.inputs[:, 1].flatten(1).any(1).long()
        count = int((color != part.labels).sum())
        assert binom.cdf(count, len(part), flip) > 1e-6
        assert binom.sf(count - 1, len(part), flip) > 1e-6
    raw = unpack(find(folder, mnist.TRAIN[1]).read_bytes(), mnist.TRAIN[1])
    clean = torch.tensor([digit < 5 for digit in raw[-10_000:]]).long()
    wrong = int((clean != published.targets[0].held_out.labels).sum())
    assert binom.cdf(wrong, 10_000, 0.25) > 1e-6
    assert binom.sf(wrong - 1, 10_000, 0.25) > 1e-6


def test_the_published_imbalance_has_the_documented_counts(folder):
    config = DataConfig(name="colored_mnist", root=folder, imbalance="paper_code", label_noise=0, held_out=0)
    domains = load(config, seed=0)
    counts = [(int(d.train.labels.sum()), len(d.train), len(d.held_out)) for d in domains.sources]
    assert counts == [(25_538, 27_038, 0), (0, 22_962, 0)]
