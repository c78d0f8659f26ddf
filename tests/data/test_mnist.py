"""Laws of Colored MNIST's environments, on small made-up images that are their own number."""

import pytest
import torch

from fedha.config import DataConfig
from fedha.data import load, mnist
from fedha.errors import FedhaError

N, TARGET, TEST = 1200, 200, 300


def numbered(n, first):
    """n images of 2x2 that are their own number, and digits that fall on both sides of five."""
    images = torch.arange(first, first + n, dtype=torch.float32)[:, None, None].expand(n, 2, 2)
    return images, torch.arange(n) * 7 % 10


def made_up(seed=0, test=True, **options):
    config = DataConfig(name="colored_mnist", **options)
    held_out = numbered(TEST, first=5000) if test else None
    return mnist.environments(numbered(N, first=1), held_out, config, seed, target_images=TARGET).check()


def numbers(part):
    return part.inputs.amax((1, 2, 3)).long().tolist()


def test_sources_are_strides_of_one_shuffle_and_the_target_is_the_end():
    domains = made_up()
    first, second = (numbers(domain.train) for domain in domains.sources)
    assert len(first) == len(second) == (N - TARGET) / 2
    assert sorted(first + second) == list(range(1, N - TARGET + 1))
    assert sorted(first) != first
    assert numbers(domains.targets[0].held_out) == list(range(N - TARGET + 1, N + 1))
    assert [domain.name for domain in domains.sources] == ["flip-0.2", "flip-0.1"]


def test_every_training_image_trains_and_test_images_are_held_out():
    for share in (0.01, 0.2, 0.9):
        domains = made_up(held_out=share)
        held_out = [numbers(domain.held_out) for domain in domains.sources]
        assert [len(part) for part in held_out] == [TEST / 2, TEST / 2]
        assert sorted(held_out[0] + held_out[1]) == list(range(5000, 5000 + TEST))
        assert sum(len(domain.train) for domain in domains.sources) == N - TARGET


def test_without_test_images_nothing_is_held_out():
    domains = made_up(test=False)
    assert [len(domain.held_out) for domain in domains.sources] == [0, 0]
    assert "held out nothing" in domains.description


def test_every_image_keeps_its_own_label():
    domains = made_up(label_noise=0)
    parts = [part for d in (*domains.sources, *domains.targets) for part in (d.train, d.held_out) if len(part)]
    for part in parts:
        first = 5000 if numbers(part)[0] >= 5000 else 1
        assert part.labels.tolist() == [int((number - first) * 7 % 10 < 5) for number in numbers(part)]


def test_every_part_has_its_own_noise_and_flips():
    domains = made_up(color_flips=[0.5, 0.5], target_color_flip=0.5, label_noise=0.5)
    parts = [part for d in (*domains.sources, *domains.targets) for part in (d.train, d.held_out) if len(part)]
    flips = [(part.inputs[:, 1].flatten(1).any(1).long() ^ part.labels)[:100].tolist() for part in parts]
    noise = [part.labels[:100].tolist() for part in parts]
    assert len(set(map(tuple, flips))) == len(set(map(tuple, noise))) == 5


@pytest.mark.parametrize("sources", [1, 3])
def test_any_number_of_sources_shares_the_images(sources):
    parts = [numbers(domain.train) for domain in made_up(color_flips=[0.1] * sources).sources]
    assert sorted(number for part in parts for number in part) == list(range(1, N - TARGET + 1))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_extreme_flips_make_the_color_the_label_or_its_opposite():
    domains = made_up(color_flips=[0.0, 1.0], target_color_flip=1.0)
    for domain, agrees in zip((*domains.sources, *domains.targets), (True, False, False), strict=True):
        for part in (domain.train, domain.held_out):
            color = part.inputs[:, 1].flatten(1).any(1).long()
            assert torch.equal(color, part.labels if agrees else 1 - part.labels)


def test_the_grayscale_target_has_the_same_images_and_labels():
    target, gray = (domain.held_out for domain in made_up(grayscale_target=True).targets)
    assert torch.equal(gray.labels, target.labels)
    assert torch.equal(gray.inputs, target.inputs.sum(1, keepdim=True).repeat(1, 2, 1, 1))


@pytest.mark.parametrize("ratio", [0.8, 0.97])
def test_clean_imbalance_gives_each_source_its_own_majority_label(ratio):
    domains = made_up(imbalance="clean", imbalance_ratio=ratio, color_flips=[0.2, 0.1, 0.3])
    for index, domain in enumerate(domains.sources):
        for part in (domain.train, domain.held_out):
            share = float((part.labels == index % 2).double().mean())
            assert abs(share - ratio) <= 1 / len(part)
            assert len(set(numbers(part))) == len(part)


def test_clean_imbalance_only_leaves_examples_out():
    everything, kept = made_up(), made_up(imbalance="clean")
    for one, other in zip(everything.sources, kept.sources, strict=True):
        places = torch.tensor([numbers(one.train).index(number) for number in numbers(other.train)])
        assert torch.equal(places, places.sort().values)
        assert torch.equal(one.train.inputs[places], other.train.inputs)
        assert torch.equal(one.train.labels[places], other.train.labels)


def test_published_imbalance_counts_by_all_digits_and_starves_the_second_source():
    domains = made_up(imbalance="paper_code", label_noise=0, imbalance_ratio=0.97)
    low = [int(domain.train.labels.sum()) for domain in domains.sources]
    assert low == [500, 0]
    assert [len(domain.train) for domain in domains.sources] == [500 + 30, 500 - 30]
    assert [len(domain.held_out) for domain in domains.sources] == [150 + 9, 150 - 9]
    assert sorted(number for d in domains.sources for number in numbers(d.train)) == list(range(1, 1001))
    assert "flip-0.2 530 (94.3%), flip-0.1 470 (0.0%)" in domains.description


def test_published_imbalance_is_for_two_sources():
    with pytest.raises(FedhaError, match=r"two sources but data.color_flips has 3"):
        made_up(imbalance="paper_code", color_flips=[0.1, 0.2, 0.3])


def test_the_seed_decides_everything_and_the_global_generator_nothing():
    torch.manual_seed(1)
    first = made_up(seed=3)
    torch.manual_seed(2)
    again, other = made_up(seed=3), made_up(seed=4)
    for one, same, different in zip(first.sources, again.sources, other.sources, strict=True):
        assert torch.equal(one.train.inputs, same.train.inputs)
        assert torch.equal(one.held_out.labels, same.held_out.labels)
        assert not torch.equal(one.train.inputs, different.train.inputs)


def test_a_folder_without_the_files_is_refused_with_the_first_name(tmp_path):
    with pytest.raises(FedhaError, match=r"train-images-idx3-ubyte.* is not in"):
        load(DataConfig(name="colored_mnist", root=tmp_path), seed=0)


def test_half_of_the_test_part_is_refused_with_the_missing_name(tmp_path):
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0x27, 0x10]) + bytes(10_000))
    with pytest.raises(FedhaError, match=r"t10k-images-idx3-ubyte.* is not in"):
        load(DataConfig(name="colored_mnist", root=tmp_path), seed=0)


def test_a_failed_download_is_an_error_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    config = DataConfig(name="colored_mnist", root=tmp_path, download=True)
    with pytest.raises(FedhaError, match=r"cannot download t10k-images-idx3-ubyte .*127\.0\.0\.1:1/t10k"):
        mnist.load(config, seed=0, mirrors=["http://127.0.0.1:1/"])
    assert not list(tmp_path.iterdir())
