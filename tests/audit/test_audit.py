"""The audit runs what applies, scores it, and says of everything else why it did not."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fedha.audit import Attacker, Inversion, Sent, audit, capture
from fedha.audit.attacks import ATTACKS
from fedha.audit.findings import Finding, Findings, to_content
from fedha.audit.network import logits_of
from fedha.config import LocalConfig
from fedha.data.domain import Domain, Examples
from fedha.models import SplitModel
from tests.audit.made import Played, digits, first, network, play, wide

QUICK = Inversion(iterations=100, restarts=1)
FINAL = {key for key, kind in ATTACKS.items() if kind.family == "membership from the final model"}
WHOLE = {*FINAL, "feature_heads"}  # of the final model, not of a release


@pytest.fixture(scope="module")
def small() -> Played:
    """Two clients, of one example and of three, for two rounds."""
    domains = [first(domain, count) for domain, count in zip(digits(), (1, 3), strict=True)]
    return play(domains, network(domains[0]), rounds=2)


@pytest.fixture(scope="module")
def found(small: Played) -> Findings:
    return audit(small.sent, small.domains, Attacker(2, small.model, inversion=QUICK), final=small.final)


def of(findings: Findings, attack: str, client: int | None) -> list[Finding]:
    return [one for one in findings.found if (one.attack, one.client) == (attack, client)]


def numbers(findings: Findings) -> list[float]:
    """Every number of an audit, in order."""

    def flat(content: object) -> list[float]:
        if isinstance(content, dict):
            return [number for value in content.values() for number in flat(value)]
        if isinstance(content, list):
            return [number for value in content for number in flat(value)]
        return [float(content)] if isinstance(content, int | float) else []

    return flat(to_content(findings))


def reasons(findings: Findings, attack: str) -> set[str]:
    return {one.reason for one in findings.not_run if one.attack == attack}


def test_a_client_of_one_example_has_no_secret(found: Findings) -> None:
    for attack in ("labels_uniform", "labels_hessian", "labels_variance"):
        assert [one.value for one in of(found, attack, 0)] == [1.0, 1.0]
    assert max(one.value for one in of(found, "feature_exact", 0)) < 1e-6
    assert max(one.value for one in of(found, "feature_moments", 0)) < 1e-6
    assert [one.value for one in of(found, "input_exact", 0)] == [100.0, 100.0]
    assert min(one.value for one in of(found, "input_update", 0)) > 30
    for statistic in ("gradient", "diagonal", "feature_mean", "joint"):
        assert [one.value for one in of(found, f"tracing_{statistic}", 0)] == [1.0, 1.0]


def test_attacks_on_a_few_examples_beat_the_guess(found: Findings) -> None:
    for attack in ("labels_hessian", "feature_class_means", "input_update", "tracing_joint"):
        for one in of(found, attack, 1):
            assert one.value > one.baseline
    for one in of(found, "feature_moments", 1):
        assert one.value < one.baseline


def test_every_attack_ran_on_every_release_or_says_why_not(small: Played, found: Findings) -> None:
    said = Counter({(one.attack, one.round, one.client): 1 for one in (*found.found, *found.not_run)})
    expected = {(attack, one.round, one.client) for attack in ATTACKS.keys() - WHOLE for one in small.sent}
    expected |= {(attack, None, client) for attack in WHOLE for client in small.domains}
    assert set(said) == expected
    assert not {(o.attack, o.round, o.client) for o in found.found} & {
        (o.attack, o.round, o.client) for o in found.not_run
    }
    assert all(one.reason for one in found.not_run)


def test_findings_repeat_and_come_from_files_alike(small: Played, tmp_path: Path) -> None:
    attacker = Attacker(2, small.model, inversion=Inversion(iterations=5, restarts=1))
    for round in (1, 2):
        capture.append(tmp_path, [one for one in small.sent if one.round == round])
    direct, again = (audit(small.sent, small.domains, attacker) for _ in range(2))
    read = audit(capture.read(tmp_path), small.domains, attacker)
    assert direct.not_run == again.not_run == read.not_run
    for one, *others in zip(numbers(direct), numbers(again), numbers(read), strict=True):
        assert others == pytest.approx(
            [one] * 2, rel=1e-9, abs=1e-12
        )  # where tensors lie in memory decides the last bit


def test_without_the_truth_attacks_say_what_they_recovered(small: Played) -> None:
    sent = [one for one in small.sent if one.round == 1]
    findings = audit(sent, None, Attacker(2, small.model, inversion=QUICK), input_shape=(2, 8, 8))
    assert all(one.value is None for one in findings.found)
    (counts,) = of(findings, "labels_hessian", 0)
    label = int(small.domains[0].train.labels[0])
    assert counts.detail["counts"] == [int(label == 0), int(label == 1)]
    (picture, *_) = [one for one in findings.pictures if one.attack == "input_exact"]
    torch.testing.assert_close(torch.tensor(picture.recovered, dtype=torch.float64), small.domains[0].train.inputs[0])
    assert picture.original is None
    assert reasons(findings, "tracing_gradient") == {"the examples behind it are not known"}
    assert reasons(findings, "membership_loss") == {"the clients' examples are not known"}


def test_under_secure_aggregation_only_the_aggregate_is_attacked(small: Played) -> None:
    sent = [one for one in small.sent if one.client is None]
    findings = audit(sent, small.domains, Attacker(2, small.model, inversion=QUICK, inversions=1))
    assert {one.client for one in findings.found} == {None}
    assert {one.attack for one in findings.found} >= {"labels_hessian", "feature_class_means", "tracing_joint"}
    # the mean of domains that count alike, not of examples that do
    weights = [1 / 2, *[1 / 6] * 3]
    labels = torch.cat([small.domains[place].train.labels for place in (0, 1)]).tolist()
    ones = sum(weight for weight, label in zip(weights, labels, strict=True) if label == 1)
    assert of(findings, "labels_hessian", None)[0].detail["truth"] == pytest.approx([4 * (1 - ones), 4 * ones])


def test_the_budget_of_inversions_goes_to_the_earliest_releases(small: Played) -> None:
    attacker = Attacker(2, small.model, inversion=Inversion(iterations=2, restarts=1), inversions=1)
    findings = audit(small.sent, small.domains, attacker)
    assert [(one.round, one.client) for one in findings.found if one.attack == "input_update"] == [(1, 0)]
    assert reasons(findings, "input_update") == {"the budget of inversions went to earlier releases"}


def test_a_release_of_a_large_batch_says_why_it_is_not_inverted() -> None:
    domains = [first(one, 20) for one in digits()]
    played = play(domains, network(domains[0]), rounds=1, measure=())
    findings = audit(played.sent[:1], played.domains, Attacker(2, played.model))
    assert "20 examples; batches of up to 8 are inverted" in reasons(findings, "input_update").pop()
    # nothing but the update was sent: its head is a gradient
    assert reasons(findings, "labels_hessian") == {"no diagonal of the Hessian was sent"}
    assert of(findings, "labels_uniform", 0)[0].value > 0.8


def test_a_head_that_is_not_linear_has_no_closed_form() -> None:
    domains = [first(one, 2) for one in digits()]
    model = network(domains[0], head_hidden=[8])
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    loss = torch.nn.functional.cross_entropy(model(domains[0].train.inputs), domains[0].train.labels)
    update = dict(zip(parameters, torch.autograd.grad(loss, list(model.parameters())), strict=True))
    sent = Sent(1, 0, None, {}, update, 2, parameters, "synchronous")
    findings = audit([sent], {0: domains[0]}, Attacker(2, model, inversion=QUICK), final=parameters)
    for attack in ("labels_uniform", "feature_class_means", "tracing_gradient"):
        assert "the head is not linear" in reasons(findings, attack).pop()
    assert of(findings, "membership_loss", 0)


def test_statistics_with_a_moving_average_and_updates_of_adam_are_left_alone() -> None:
    domains = [first(one, 5) for one in digits()]
    model = network(domains[0])
    options = {"rounds": 1, "mode": "local", "local": LocalConfig(steps=2, optimizer="adam", learning_rate=0.01)}
    played = play(domains, model, measure=["gradient_variance"], **options)
    attacker = Attacker(2, model, averaged=frozenset({"gradient_variance"}), inversions=0)
    findings = audit(played.sent, played.domains, attacker)
    assert "plain SGD" in reasons(findings, "labels_uniform").pop()
    # with the gradient sent as well, only the average is in the way
    gradient = play(domains, model, measure=["gradient", "gradient_variance"], **options)
    assert reasons(audit(gradient.sent, gradient.domains, attacker), "labels_variance") == {
        "gradient_variance was sent with a moving average added"
    }


def test_a_sum_of_plain_local_steps_is_read_as_a_gradient() -> None:
    domains = [first(one, 30) for one in digits()]
    model = network(domains[0])
    local = LocalConfig(steps=4, learning_rate=0.01)
    played = play(domains, model, rounds=1, mode="local", local=local, measure=())
    findings = audit(played.sent, played.domains, Attacker(2, model, update_scale=0.04))
    for client in (0, 1):
        (one,) = of(findings, "labels_uniform", client)
        assert one.value > 0.85


def test_public_inputs_give_a_prior_and_truth_that_does_not_fit_is_refused(small: Played) -> None:
    public = wide(digits(seed=5)[0].train)
    findings = audit(small.sent, small.domains, Attacker(2, small.model, public=public, inversions=0))
    assert [one.value for one in of(findings, "labels_public", 0)] == [1.0, 1.0]
    other = {0: first(digits()[0], 2), 1: small.domains[1]}
    findings = audit(small.sent[:1], other, Attacker(2, small.model, inversions=0))
    assert "it speaks of 1 examples but its clients hold 2" in reasons(findings, "tracing_gradient")


def test_shadow_models_of_the_federations_own_training_judge_its_final_model() -> None:
    def small_domain(domain: Domain) -> Domain:
        return replace(domain, train=domain.train.select(slice(0, 20)), held_out=domain.held_out.select(slice(0, 20)))

    domains = [small_domain(one) for one in digits()]
    model = network(domains[0])

    def run(parts: list[Domain]) -> Played:
        return play(parts, model, rounds=25, measure=(), learning_rate=0.5)

    def train(parts: Mapping[int, Examples], number: int):  # type: ignore[no-untyped-def]
        parts = [replace(domain, train=parts[client]) for client, domain in enumerate(domains)]
        return predict(model, run(parts).final)

    played = run(domains)
    attacker = Attacker(2, model, train=train, shadows=4)
    findings = audit([], played.domains, attacker, final=played.final)
    for client in (0, 1):
        (one,) = of(findings, "membership_lira", client)
        assert one.detail["members"] == one.detail["others"] == 20
        assert one.detail["false_positive_rate_attained"] == 0  # 20 others attain no rate between 0 and 1/20
        assert one.interval[0] <= one.value <= one.interval[1]
    assert {one.attack for one in findings.curves} == FINAL


def predict(model: SplitModel, parameters: dict[str, Tensor]):  # type: ignore[no-untyped-def]
    return lambda inputs: logits_of(model, parameters, inputs)
