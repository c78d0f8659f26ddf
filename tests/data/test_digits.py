"""Laws of the colored digits, on the real images that scikit-learn ships."""

import pytest
import torch
from scipy.stats import binom
from sklearn.datasets import load_digits

from fedha.config import DataConfig
from fedha.data import load


def every_part(domains):
    return [part for domain in (*domains.sources, *domains.targets) for part in (domain.train, domain.held_out)]


def gray_images(parts):
    """Colours taken off: the images as sorted rows."""
    return sorted(tuple(image) for part in parts for image in part.inputs.sum(1).flatten(1).tolist())


def test_two_sources_and_the_target_share_the_images_in_equal_disjoint_thirds():
    domains = load(DataConfig(), seed=0)
    assert [domain.name for domain in domains.sources] == ["flip-0.2", "flip-0.1"]
    assert [domain.name for domain in domains.targets] == ["target"]
    assert [len(d.train) + len(d.held_out) for d in (*domains.sources, *domains.targets)] == [599, 599, 599]
    originals = sorted(tuple(image) for image in (load_digits().data / 16).tolist())
    assert gray_images(every_part(domains)) == originals


@pytest.mark.parametrize("sources", [1, 3, 7])
def test_any_number_of_sources_shares_the_images_evenly(sources):
    domains = load(DataConfig(color_flips=[0.1] * sources), seed=0)
    sizes = [len(d.train) + len(d.held_out) for d in (*domains.sources, *domains.targets)]
    assert sum(sizes) == 1797
    assert max(sizes) - min(sizes) <= 1
    assert len({domain.name for domain in domains.sources}) == sources


def test_inputs_are_two_channels_of_float32_from_zero_to_one():
    for part in every_part(load(DataConfig(grayscale_target=True), seed=0)):
        assert part.inputs.shape[1:] == (2, 8, 8)
        assert (part.inputs.dtype, part.labels.dtype) == (torch.float32, torch.int64)
        assert part.inputs.numel() == 0 or (part.inputs.min() == 0 and part.inputs.max() == 1)


def test_colors_disagree_as_often_as_configured():
    domains = load(DataConfig(held_out=0), seed=0)
    parts = [domain.train for domain in domains.sources] + [domains.targets[0].held_out]
    for part, flip in zip(parts, (0.2, 0.1, 0.9), strict=True):
        color = part.inputs[:, 1].flatten(1).any(1).long()
        count = int((color != part.labels).sum())
        assert binom.cdf(count, len(part), flip) > 1e-6
        assert binom.sf(count - 1, len(part), flip) > 1e-6


def test_labels_are_flipped_as_often_as_configured():
    clean = dict(zip(map(tuple, (load_digits().data / 16).tolist()), load_digits().target < 5, strict=True))
    parts = [part for part in every_part(load(DataConfig(), seed=0)) if len(part)]
    wrong = sum(
        clean[tuple(image)] != bool(label)
        for part in parts
        for image, label in zip(part.inputs.sum(1).flatten(1).tolist(), part.labels, strict=True)
    )
    assert binom.cdf(wrong, 1797, 0.25) > 1e-6
    assert binom.sf(wrong - 1, 1797, 0.25) > 1e-6


def test_without_noise_the_label_is_digit_below_five():
    clean = dict(zip(map(tuple, (load_digits().data / 16).tolist()), load_digits().target < 5, strict=True))
    target = load(DataConfig(label_noise=0), seed=0).targets[0].held_out
    images = target.inputs.sum(1).flatten(1).tolist()
    assert [clean[tuple(image)] for image in images] == target.labels.bool().tolist()


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.2, 120), (0.5, 300), (0.999, 598)])
def test_the_held_out_share_of_a_source_is_rounded_to_examples(share, count):
    for domain in load(DataConfig(held_out=share), seed=0).sources:
        assert (len(domain.held_out), len(domain.train)) == (count, 599 - count)


def test_holding_out_changes_no_image_label_or_color():
    def rows(domain):
        parts = (domain.train, domain.held_out)
        pairs = [(x, int(y)) for part in parts for x, y in zip(part.inputs.flatten(1), part.labels, strict=True)]
        return sorted((*x.tolist(), y) for x, y in pairs)

    none, half = (load(DataConfig(held_out=share), seed=4) for share in (0.0, 0.5))
    for one, other in zip(none.sources, half.sources, strict=True):
        assert rows(one) == rows(other)


def test_the_seed_decides_everything_and_the_global_generator_nothing():
    first = every_part(load(DataConfig(), seed=5))
    torch.manual_seed(1234)
    before = torch.get_rng_state()
    again = every_part(load(DataConfig(), seed=5))
    assert torch.equal(torch.get_rng_state(), before)
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.labels, other.labels)
    assert not torch.equal(every_part(load(DataConfig(), seed=6))[0].inputs, first[0].inputs)


def test_the_grayscale_target_is_the_target_without_its_color():
    target, gray = load(DataConfig(grayscale_target=True), seed=0).targets
    assert (target.name, gray.name) == ("target", "grayscale")
    assert torch.equal(gray.held_out.labels, target.held_out.labels)
    image = target.held_out.inputs.sum(1)
    assert torch.equal(gray.held_out.inputs, torch.stack([image, image], dim=1))
    assert len(gray.train) == len(target.train) == 0
