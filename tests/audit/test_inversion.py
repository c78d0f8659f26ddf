"""Images come out of gradients: exactly by division, nearly by optimisation, and not out of noise."""

import pytest
import torch
from torch import Tensor

from fedha.audit.attacker import Attacker
from fedha.audit.evidence import plain_update
from fedha.audit.inversion import Inversion, first_layer_input, invert, total_variation
from fedha.audit.matching import matched
from fedha.audit.network import features_of
from fedha.audit.scores import psnr
from fedha.config import LocalConfig
from fedha.cross_entropy import losses
from fedha.models import SplitModel
from tests.audit.made import digits, first, network, play, with_term

SHORT = Inversion(iterations=300, restarts=1)
SHAPE = (2, 8, 8)


def one_example(seed: int, **options: object) -> tuple[SplitModel, object, Tensor]:
    """A network, what a client of one example sent in the first round, and its image."""
    domains = [first(one, 1) for one in digits(seed=seed)]
    model = network(domains[0], seed=seed, **options)
    played = play(domains, model, rounds=1)
    return model, played.sent[0], domains[0].train.inputs[0]


def recovered(model: SplitModel, sent, target, labels: Tensor, settings: Inversion = SHORT) -> Tensor:  # type: ignore[no-untyped-def]
    return invert(model, sent.parameters, target, labels, SHAPE, settings, 0, "test").inputs


@pytest.mark.parametrize("one_logit", [True, False])
def test_a_first_linear_layer_gives_a_single_image_away_exactly(one_logit: bool) -> None:
    domains = [first(one, 1) for one in digits()]
    model = network(domains[0], one_logit=one_logit)
    # also with L2, which the attacker takes off, and with a penalty, which changes the numbers but not the ratio
    played = play(domains, model, weight_decay=0.01, recipe=with_term("gradient", "hessian_diagonal"))
    for sent in played.sent:
        if sent.client is not None:
            update = plain_update(sent, Attacker(2, model, weight_decay=0.01))
            found = first_layer_input(model, update, SHAPE)
            torch.testing.assert_close(found, domains[sent.client].train.inputs[0], rtol=0, atol=1e-6)


def test_plain_local_steps_give_a_single_image_away_too() -> None:
    domains = [first(one, 1) for one in digits()]
    model = network(domains[0])
    played = play(domains, model, rounds=1, mode="local", local=LocalConfig(steps=3, learning_rate=0.05))
    found = first_layer_input(model, plain_update(played.sent[0], Attacker(2, model, update_scale=0.15)), SHAPE)
    torch.testing.assert_close(found, domains[0].train.inputs[0], rtol=0, atol=1e-6)


def test_a_linear_model_gives_a_single_image_away_through_its_head() -> None:
    model, sent, image = one_example(0, name="linear", hidden=[])
    torch.testing.assert_close(first_layer_input(model, sent.update, SHAPE), image, rtol=0, atol=1e-6)


def test_a_convolution_is_not_divided() -> None:
    model, sent, _ = one_example(0, name="cnn", hidden=[4])
    assert first_layer_input(model, sent.update, SHAPE) is None


@pytest.mark.parametrize("seed", [0, 1])
def test_the_update_of_one_example_is_inverted(seed: int) -> None:
    model, sent, image = one_example(seed)
    label = digits(seed=seed)[0].train.labels[:1]
    assert psnr(recovered(model, sent, sent.update, label)[0], image, 1.0) > 30


def test_the_head_gradient_of_one_example_is_inverted_through_a_wide_backbone() -> None:
    model, sent, image = one_example(0, hidden=[256])
    label = digits(seed=0)[0].train.labels[:1]
    decibels = psnr(recovered(model, sent, sent.statistics["gradient"], label)[0], image, 1.0)
    print("PSNR from the head gradient, 256 features:", round(decibels, 1))  # noqa: T201
    assert decibels > 30


def test_a_convolutional_networks_update_is_inverted_better_than_a_guess() -> None:
    model, sent, image = one_example(0, name="cnn", hidden=[16, 32])
    label = digits(seed=0)[0].train.labels[:1]
    found = recovered(model, sent, sent.update, label, Inversion(iterations=400, restarts=1, variation_weight=1e-2))
    print("PSNR of a convolutional network's update:", round(psnr(found[0], image, 1.0), 1))  # noqa: T201
    assert psnr(found[0], image, 1.0) > psnr(torch.full_like(image, 0.5), image, 1.0) + 6


def test_larger_batches_are_inverted_less_well() -> None:
    means = {}
    for count in (1, 2, 4, 8):
        domain = first(digits()[0], count)
        model = network(domain)
        (sent, _) = play([domain], model, rounds=1).sent
        found = recovered(model, sent, sent.update, domain.train.labels, Inversion(iterations=400, restarts=1))
        pairs = zip(domain.train.inputs, matched(domain.train.inputs, found, 1.0), strict=True)
        means[count] = sum(psnr(one, other, 1.0) for one, other in pairs) / count
    guess = psnr(torch.full(SHAPE, 0.5, dtype=torch.float64), digits()[0].train.inputs[0], 1.0)
    print("PSNR by batch size:", {n: round(mean, 1) for n, mean in means.items()}, "guess", round(guess, 1))  # noqa: T201
    assert means[1] == max(means.values())
    assert min(means.values()) == means[8] > guess + 3


def test_noise_without_end_gives_an_image_that_is_no_nearer_than_any_other() -> None:
    # An image made of noise knows nothing of which of 400 images was behind: the rank of the true one is uniform, and
    # it is among the nearest 4 once in a hundred; for three seeds at once, once in a million. Without noise it is the
    # nearest.
    ranks = {"clean": [], "noise": []}
    for seed in range(3):
        model, sent, _ = one_example(seed)
        examples = digits(seed=seed)[0].train
        draws = torch.Generator().manual_seed(seed)
        noise = {k: 1e9 * torch.randn(v.shape, generator=draws, dtype=v.dtype) for k, v in sent.update.items()}
        for kind, target in (("clean", sent.update), ("noise", noise)):
            found = recovered(model, sent, target, examples.labels[:1])[0]
            errors = (examples.inputs[:400] - found).square().flatten(1).mean(1)
            ranks[kind].append(int((errors < errors[0]).sum()))
    assert ranks["clean"] == [0, 0, 0]
    assert max(ranks["noise"]) >= 4


def test_the_same_seed_gives_the_same_image_and_more_starts_no_larger_loss() -> None:
    model, sent, _ = one_example(0, hidden=[8])
    label = torch.tensor([1])
    few = Inversion(iterations=20, restarts=1)

    def run(settings: Inversion, seed: int = 0):  # type: ignore[no-untyped-def]
        return invert(model, sent.parameters, sent.update, label, SHAPE, settings, seed, "test")

    assert torch.equal(run(few).inputs, run(few).inputs)
    assert not torch.equal(run(few).inputs, run(few, seed=1).inputs)
    assert run(Inversion(iterations=20, restarts=3)).loss <= run(few).loss
    assert float(run(few).inputs.min()) >= 0
    assert float(run(few).inputs.max()) <= 1
    with pytest.raises(ValueError, match="one start or more"):
        run(Inversion(restarts=0))


def test_variation_is_the_mean_difference_of_neighbours() -> None:
    image = torch.tensor([[[[0.0, 1.0], [3.0, 5.0]]]])
    assert float(total_variation(image)) == pytest.approx((3 + 4) / 2 + (1 + 2) / 2)
    assert float(total_variation(torch.full((2, 3, 4, 4), 0.7))) == 0


def test_features_and_losses_are_the_networks_own() -> None:
    model, sent, image = one_example(0, one_logit=True)
    inputs = image[None]
    torch.testing.assert_close(features_of(model, sent.parameters, inputs)[:, :-1], model.featurizer(inputs))
    logits, labels = torch.tensor([[0.3], [-2.0]]), torch.tensor([1, 0])
    torch.testing.assert_close(losses(logits, labels), -torch.sigmoid(torch.tensor([0.3, 2.0])).log())
    two = torch.cat([torch.zeros_like(logits), logits], 1)
    torch.testing.assert_close(losses(two, labels), losses(logits, labels))
