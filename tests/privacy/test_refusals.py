"""What a client does not answer, and what the server hears of it: the kind, never the sentence or the data."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from torch import Tensor

from fedha.engine.inline import InlineGrid
from fedha.errors import FedhaError
from fedha.exchange import Request, Task
from fedha.flower.client import client_app, seeded_site
from fedha.flower.failure import find_failure
from fedha.flower.serve import load_domains
from fedha.flower.wire import pack_request, pack_task, pack_tensors
from fedha.models import build
from fedha.privacy.limits import Limits, read_limits
from fedha.privacy.site import Site
from tests.privacy.rounds import grid_of, records_of, run_on, settings

pytest.importorskip("dp_accounting", reason='install "fedha[privacy]"')

SECRET = "4711.25"


def parameters_of(config: Any) -> dict[str, Tensor]:
    domains = load_domains(config)
    model = build(config.model, domains.input_shape, domains.classes, 0)
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def ask(grid: InlineGrid, config: Any, kind: str, parameters: dict[str, Tensor], **changes: Any) -> Any:
    """One message to the first client, as a server with its own mind would send it; the reply, or the error's text."""
    task = Task(config.recipe[0].resolve(), config.training, 0, config.privacy)
    request = Request(
        task, **{"round": 1, "parameters": {}, "measure": ("gradient",), "averaging_weight": 0.5, **changes}
    )
    references = pack_tensors(changes.get("references", {}))
    content = pack_request(request, pack_tensors(parameters), references, pack_task(task))
    (reply,) = grid.send_and_receive([Message(content, next(iter(grid.get_node_ids())), kind, group_id="1")])
    failed = find_failure(reply)
    return failed.sentence if failed else reply.content


def spoilt(name: str, number: float) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda parameters: {**parameters, name: torch.full_like(parameters[name], number)}


CRAFTED: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "a head of zeros": (lambda p: {**p, **{k: torch.zeros_like(p[k]) for k in p if k.startswith("head")}}, "head"),
    "a huge head": (spoilt("head.weight", 1e5), "head"),
    "a head that is not finite": (spoilt("head.weight", float("nan")), "request"),
    "an infinite parameter": (spoilt("head.bias", float("inf")), "request"),
    "a parameter of another shape": (lambda p: {**p, "head.weight": torch.ones(3, 3)}, "request"),
    "a parameter that is missing": (lambda p: {k: v for k, v in p.items() if k != "head.bias"}, "request"),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_or_broken_model_is_refused_by_its_kind(name: str, caplog: pytest.LogCaptureFixture) -> None:
    craft, kind = CRAFTED[name]
    config = settings("iga")
    logging.getLogger("flwr").propagate = True
    told = ask(grid_of(config), config, "query.measure", craft(parameters_of(config)))
    assert told == f"it refuses to answer ({kind})"
    assert "the server sent" in caplog.text  # to the site's user, the whole sentence


def test_an_honest_request_is_answered() -> None:
    config = settings("iga")
    assert "tensors" in ask(grid_of(config), config, "query.measure", parameters_of(config))


ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "a statistic that the recipe does not need": ("query.measure", {"measure": ("feature_covariance",)}),
    "more than one exchange at once": ("query.measure", {"measure": ("gradient", "hessian_diagonal")}),
    "evaluation of training examples": ("evaluate", {"measure": (), "evaluate": ("train",)}),
    "evaluation that is not covered": ("evaluate", {"measure": (), "evaluate": ("held_out",)}),
    "statistics beside an update": ("train", {"measure": ("gradient",)}),
    "evaluation beside an update": ("train", {"measure": (), "evaluate": ("held_out",)}),
}


@pytest.mark.parametrize("name", ASKED)
def test_what_the_run_does_not_cover_is_not_answered(name: str) -> None:
    kind, changes = ASKED[name]
    config = settings("iga")
    told = ask(grid_of(config), config, kind, parameters_of(config), **changes)
    assert told.endswith("it refuses to answer (statistic)")


def test_training_without_statistics_is_an_error_by_kind_alone() -> None:
    config = settings("iga")
    references = {"gradient": torch.zeros(1, 7)}
    told = ask(
        grid_of(config), config, "train", parameters_of(config), measure=(), references=references
    )  # fmt: skip
    assert told.endswith("it could not answer (FedhaError); its own log says why")


def test_references_that_are_not_finite_are_refused() -> None:
    config = settings("iga")
    references = {"gradient": torch.full((1, 7), float("inf"))}
    told = ask(grid_of(config), config, "train", parameters_of(config), measure=(), references=references)
    assert told.endswith("it refuses to answer (request)")


# --- errors tell nothing ---


@pytest.mark.parametrize("covered", [True, False])
def test_an_errors_text_stays_at_the_client_where_anything_is_covered(covered: bool) -> None:
    """References of a wrong shape: torch's error names sizes; a reference's name could be anything."""
    config = settings("iga") if covered else settings("iga", privacy={"protect": "nothing"})
    grid = grid_of(config)
    if covered:
        ask(grid, config, "query.measure", parameters_of(config))
    references = {"gradient": torch.full((1, 4711), 1.0)}
    told = ask(grid, config, "train", parameters_of(config), measure=(), references=references)
    assert ("4711" in told) is not covered
    assert told.endswith("it refuses to answer (request)") is covered


def test_data_in_an_exception_do_not_reach_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The worst case: code that puts an example into its error, in every exchange."""
    from fedha.flower import client as client_module

    def leaks(*_: Any) -> Any:
        raise ValueError(f"strange example: {SECRET}")

    for kind in ("query.measure", "train"):
        monkeypatch.setattr(client_module, "_ANSWERS", {**client_module._ANSWERS, kind: leaks})
        config = settings("iga")
        with pytest.raises(FedhaError) as told:
            run_on(grid_of(config), config, tmp_path / kind)
        assert SECRET not in str(told.value)
        assert "it could not answer (ValueError)" in str(told.value)
        assert not any(SECRET in path.read_text() for path in (tmp_path / kind).rglob("*.json*"))


def test_a_message_that_cannot_be_read_tells_nothing_either() -> None:
    config = settings("iga")
    grid = grid_of(config, lambda: Site("cryptographic"))
    content = RecordDict({"request": ConfigRecord({"task": f"{{not json {SECRET}"})})
    (reply,) = grid.send_and_receive([Message(content, 2, "train", group_id="1")])
    failed = find_failure(reply)
    assert failed is not None
    assert SECRET not in f"{failed.sentence} {failed.trace}"
    assert "it could not answer" in failed.sentence


def test_examples_that_are_not_finite_stop_nobody_and_show_nowhere(tmp_path: Path) -> None:
    config = settings("exact_diagonal")
    domains = load_domains(config)
    domains.sources[0].train.inputs[0] = float("nan")
    app = client_app(
        lambda _: build(config.model, domains.input_shape, domains.classes, 0),
        lambda context: domains.sources[int(context.node_config["partition-id"])],
        site=seeded_site,
    )
    results = run_on(InlineGrid(app, 2), config, tmp_path)
    assert results["rounds"] == 3


@pytest.mark.parametrize("covered", [True, False])
def test_data_that_cannot_be_loaded_tell_the_server_nothing_of_them(covered: bool) -> None:
    config = settings("iga") if covered else settings("iga", privacy={"protect": "nothing"})

    def broken(_: Any) -> Any:
        raise ValueError(f"the patient of row 7 is {SECRET}")

    app = client_app(lambda _: build(config.model, (3,), 2, 0), broken, site=seeded_site)
    told = ask(InlineGrid(app, 2), config, "query.measure", parameters_of(config))
    assert (SECRET in told) is not covered
    assert told.endswith("it could not answer (ValueError); its own log says why") is covered


# --- refusals are counted ---


def test_a_client_that_refuses_is_passed_over_and_counted(tmp_path: Path) -> None:
    """Only the largest client has enough; the event says which kind of refusal it was."""
    rest = {"engine": {"on_client_error": "skip"}, "data": {"color_flips": [0.2, 0.1, 0.3]}}
    sizes = sorted(len(one.train) for one in load_domains(settings("iga", **rest)).sources)
    config = settings("iga", privacy={"min_examples": sizes[-2] + 1}, **rest)
    run_on(grid_of(config), config, tmp_path)
    for record in records_of(tmp_path):
        assert record["clients"] == 1
        assert [one["event"] for one in record["events"]] == ["skipped", "skipped"]
        assert all(one["reason"].endswith("it refuses to answer (min_examples)") for one in record["events"])


def test_by_default_a_refusal_ends_the_run_with_its_kind(tmp_path: Path) -> None:
    config = settings("iga", privacy={"protect": "nothing", "min_examples": 100_000})
    with pytest.raises(FedhaError, match=r"it refuses to answer \(min_examples\)"):
        run_on(grid_of(config), config, tmp_path)


# --- a site's own limits ---


def limited(**limits: Any) -> Callable[[], Site]:
    return lambda: Site("seeded", Limits(**limits), clock=lambda: 1000.0)


@pytest.mark.parametrize(
    ("limits", "kind"),
    [
        ({"min_examples": 100_000}, "min_examples"),
        ({"statistics": ("risk",)}, "statistic"),
        ({"rounds_per_hour": 2}, "rate"),
        ({"max_epsilon": 0.01}, "budget"),
        ({"max_epsilon": 2.0}, "budget"),
        ({"head": {"least_distance": 50.0}}, "head"),
        ({"head": {"largest_norm": 0.01}}, "head"),
    ],
)
def test_a_sites_limit_is_its_own_whatever_the_server_says(limits: dict[str, Any], kind: str, tmp_path: Path) -> None:
    config = settings("iga")
    with pytest.raises(FedhaError, match=rf"it refuses to answer \({kind}\)"):
        run_on(grid_of(config, limited(**limits)), config, tmp_path)
    done = len(records_of(tmp_path)) if (tmp_path / "metrics.jsonl").exists() else 0
    assert done == {"rate": 2}.get(kind, 1 if limits == {"max_epsilon": 2.0} else 0)


def test_the_rate_does_not_believe_the_servers_round(tmp_path: Path) -> None:
    """A server that calls every round the first one, or asks for a statistic twice at once, gains nothing."""
    config = settings("iga", privacy={"protect": "nothing"})
    grid = grid_of(config, limited(rounds_per_hour=2))
    answers = [ask(grid, config, "query.measure", parameters_of(config), round=1) for _ in range(2)]
    assert all("tensors" in one for one in answers)
    for measure in (("gradient",), ("gradient", "gradient"), ("hessian_diagonal", "gradient")):
        told = ask(grid, config, "query.measure", parameters_of(config), measure=measure)
        assert told.endswith("it refuses to answer (rate)")
    told = ask(grid, config, "train", parameters_of(config), measure=("gradient",))
    assert told.endswith("it refuses to answer (rate)")
    assert "tensors" in ask(grid, config, "query.measure", parameters_of(config), measure=("hessian_diagonal",))


FEW = {
    "a gradient of one": ("train", {"batch_size": 1}),
    "a statistic of one": ("query.measure", {"batch_size": 1}),
    "a local step of one": ("train", {"mode": "local", "local": {"steps": 1, "batch_size": 1}}),
    "the statistic of a minibatch": (
        "query.measure",
        {"mode": "local", "local": {"steps": 9, "batch_size": 50, "measure": "batch"}},
    ),
    "a statistic of some": (
        "query.measure",
        {"mode": "local", "local": {"steps": 1, "measure": 99}},
    ),
}


@pytest.mark.parametrize("name", FEW)
def test_a_sites_least_number_is_that_of_an_answer_not_of_its_domain(name: str) -> None:
    """A server that chooses the batch would have single examples of a site that allows no fewer than a hundred."""
    kind, training = FEW[name]
    measure = ("gradient",) if kind == "query.measure" else ()
    few = settings("iga", privacy={"protect": "nothing"}, training=training)
    grid = grid_of(few, limited(min_examples=100))
    told = ask(grid, few, kind, parameters_of(few), measure=measure, references={"gradient": torch.zeros(1, 7)})
    assert told == "it refuses to answer (min_examples)"
    enough = settings("iga", privacy={"protect": "nothing"}, training={"batch_size": 100})
    assert "tensors" in ask(grid, enough, "query.measure", parameters_of(enough))


def test_a_site_with_a_budget_answers_no_run_without_noise(tmp_path: Path) -> None:
    config = settings("iga", privacy={"protect": "nothing"})
    with pytest.raises(FedhaError, match=r"refuses to answer \(budget\)"):
        run_on(grid_of(config, limited(max_epsilon=100.0)), config, tmp_path)


def test_a_site_that_allows_what_is_asked_gives_the_run_its_bits(tmp_path: Path) -> None:
    config = settings("iga")
    run_on(
        grid_of(config, limited(statistics=("gradient",), rounds_per_hour=3, max_epsilon=50.0)), config, tmp_path / "a"
    )
    run_on(grid_of(config), config, tmp_path / "b")
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


def test_limits_are_read_from_a_file_and_what_is_wrong_is_named(tmp_path: Path) -> None:
    path = tmp_path / "limits.yaml"
    path.write_text("max_epsilon: 3\nrounds_per_hour: 60\nstatistics: [gradient]\nhead: {largest_norm: 100}\n")
    found = read_limits(path)
    assert (found.max_epsilon, found.rounds_per_hour, found.statistics) == (3.0, 60, ("gradient",))
    assert found.head.largest_norm == 100.0
    for text, message in (
        ("max_epsilon: -1", "max_epsilon"),
        ("epsilon: 1", "unknown key 'epsilon'; did you mean 'max_epsilon'"),
        ("{", "YAML"),
    ):
        path.write_text(text)
        with pytest.raises(FedhaError, match=message):
            read_limits(path)
    with pytest.raises(FedhaError, match="correct FEDHA_LIMITS"):
        read_limits(tmp_path / "none.yaml")
