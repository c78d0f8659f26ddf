"""A client that holds a contract answers what was agreed on, and nothing else, whatever a message says."""

import json
import logging
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message
from hypothesis import HealthCheck, given
from hypothesis import settings as examined
from hypothesis import strategies as st

from fedha.config import Config
from fedha.data.partition import client_domains
from fedha.engine.inline import InlineGrid
from fedha.errors import FedhaError
from fedha.exchange import Request
from fedha.flower import contracted, handshake
from fedha.flower.client import client_app, seeded_site
from fedha.flower.failure import find_failure
from fedha.flower.serve import load_domains
from fedha.flower.wire import pack_introduction, pack_request, pack_task, pack_tensors
from fedha.metrics.asked import Asked
from fedha.models import build
from fedha.privacy import agreed
from fedha.privacy.agreed import BOUND, HARMLESS
from fedha.privacy.book import from_text
from fedha.privacy.contract import Contract, contract, contract_of, flat
from tests.privacy.rounds import Overhearing, records_of, run_on, settings
from tests.privacy.test_refusals import parameters_of

CONFIGS: dict[str, Config] = {
    "private": settings("exact_diagonal", privacy={"scales": {"hessian_diagonal": 0.1}, "evaluation_noise": 5.0}),
    "plain": settings("hgp", privacy={"protect": "nothing"}),
    "local": settings(
        "fishr",
        training={"mode": "local", "local": {"steps": 3}, "optimizer": "scaffold"},
        privacy={"protect": "nothing"},
    ),
    "counted": settings("iga", privacy={"protect": "nothing"}, evaluation={"metrics": ["balanced_accuracy"]}),
    "piggyback": settings("vrex", privacy={"protect": "nothing"}, federation={"schedule": "piggyback"}),
}


def grid_of(config: Config, held: Contract | None = None, books: Path | None = None) -> Overhearing:
    """The clients of a config, who hold a contract."""
    domains = load_domains(config)
    parts = client_domains(domains, config.data, config.seed[0])
    app = client_app(
        lambda _: build(config.model, domains.input_shape, domains.classes, config.seed[0]),
        lambda context: parts[int(context.node_config["partition-id"])],
        site=seeded_site,
        contract=held,
        books=books,
    )
    return Overhearing(app, len(parts))


def request_of(config: Config, **changes: Any) -> Request:
    """What an honest server asks first, but for some fields."""
    held = contract_of(config)
    first = {"kind": "measure", "measure": held.exchanges[0]}
    honest = {"round": 1, "averaging_weight": 0.5, "contract": held.digest, "parameters": parameters_of(config)}
    return Request(held.task, **{**honest, **first, **changes})


def ask(grid: InlineGrid, request: Request, task: str = "") -> str:
    """What the first client says to it: the sentence of its failure, or nothing."""
    kind = request.kind if request.kind in ("train", "evaluate") else f"query.{request.kind}"
    content = pack_request(
        request,
        pack_tensors(request.parameters),
        pack_tensors(request.references),
        task or pack_task(request.task),
        pack_tensors(request.sent),
    )
    (reply,) = grid.send_and_receive([Message(content, next(iter(grid.get_node_ids())), kind, group_id="1")])
    failed = find_failure(reply)
    return failed.sentence if failed else ""


def context_of(grid: InlineGrid) -> Context:
    return next(iter(grid._contexts.values()))


# --- every field is bound, or harmless for a reason ---


def test_every_field_of_a_request_is_bound_or_said_to_be_harmless() -> None:
    assert {one.name for one in fields(Request)} == BOUND.keys() | HARMLESS.keys()
    assert not BOUND.keys() & HARMLESS.keys()


def test_what_a_message_carries_is_a_field_of_a_request_and_nothing_else() -> None:
    """A scalar that is new in a message has a field, and with it a check or a reason."""
    whole = request_of(
        CONFIGS["plain"],
        additive=True,
        evaluate=("held_out",),
        asked=Asked(("confusion",), classes=2),
        constants="c",
        running={"b": torch.zeros(1)},
    )
    packed = pack_request(whole, pack_tensors({}), pack_tensors({}), "{}", pack_tensors({"r/x": torch.zeros(1)}))
    named = {"share": "averaging_weight", "rule": "sent"}
    carried = {*packed["request"], *packed} - {"request"}  # type: ignore[misc]
    assert {named.get(one, one) for one in carried} <= BOUND.keys() | HARMLESS.keys()


def test_all_of_a_task_is_in_the_terms_but_texts() -> None:
    held = contract_of(CONFIGS["private"])
    packed = json.loads(pack_task(held.task))
    recipe = {key for key in packed["recipe"] if key not in ("source", "pull", "terms")}
    wanted = {f"recipe.{key}" for key in recipe} | {key for key, _ in flat({"training": packed["training"]})}
    wanted |= {key for key, _ in flat({"privacy": held.task.privacy.model_dump(mode="json")})} | {"seed"}
    assert wanted <= held.terms.keys()
    assert {key for key in held.terms if key.startswith("recipe.terms.gradient.")}


# --- an honest run ---


@pytest.mark.parametrize("name", CONFIGS)
def test_an_honest_run_under_a_contract_is_the_run_without(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    run_on(grid_of(config, contract_of(config)), config, tmp_path / "a")
    run_on(grid_of(config), config, tmp_path / "b")
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    for one, other in zip(records_of(tmp_path / "a"), records_of(tmp_path / "b"), strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_an_apps_own_contract_is_made_of_what_its_strategy_is_given() -> None:
    config = CONFIGS["private"]
    own = contract(config.recipe[0], config.training, seed=config.seed[0], privacy=config.privacy)
    assert own.terms == {key: value for key, value in contract_of(config).terms.items() if key in own.terms}
    other = contract(config.recipe[0], config.training, seed=1, privacy=config.privacy)
    assert own.digest != other.digest


# --- a server that deviates ---


def otherwise(value: Any) -> Any:
    """Another value of the same type, where there is one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return f"{value}x"
    return 7 if value is None else [*value, "x"] if isinstance(value, list) else {**value, "x": 1}


def leaves(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(content, Mapping) and content:
        return [one for key, value in content.items() for one in leaves(value, (*path, key))]
    if isinstance(content, list) and content and isinstance(content[0], Mapping):
        return [one for place, value in enumerate(content) for one in leaves(value, (*path, place))]
    return [path]


def changed(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    whole = json.loads(json.dumps(content))
    inner = whole
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return whole


@pytest.mark.parametrize("name", CONFIGS)
def test_no_number_or_word_of_a_task_can_be_another(name: str) -> None:
    """Each leaf of what travels, one after the other: refused, whether or not a schema would take it."""
    config = CONFIGS[name]
    request = request_of(config)
    whole = {**json.loads(pack_task(request.task)), "privacy": request.task.privacy.model_dump(mode="json")}
    grid = grid_of(config, contract_of(config))
    assert ask(grid, request, json.dumps(whole)) == ""
    for path in leaves(whole):
        if path[-1] in ("source", "pull"):
            continue
        value = whole
        for step in path:
            value = value[step]
        told = ask(grid, request, json.dumps(changed(whole, path, otherwise(value))))
        assert told, path  # a schema's own sentence, or the contract's


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("privacy", "noise_multiplier"), 0.1, "privacy.noise_multiplier 0.1, and agreed was 3.0"),
        (("privacy", "protect"), "nothing", "privacy.protect 'nothing', and agreed was 'examples'"),
        (
            ("privacy", "scales", "hessian_diagonal"),
            1e12,
            "privacy.scales.hessian_diagonal 1000000000000.0, and agreed was 0.1",
        ),
        (("seed",), 1, "seed 1, and agreed was 0"),
        (("training", "rounds"), 4, "training.rounds 4, and agreed was 3"),
        (("recipe", "terms", 0, "weight"), 2.0, "recipe.terms.gradient.weight 2.0, and agreed was 1.0"),
        (("recipe", "rescale"), 0, "recipe.rescale 0, and agreed was False"),
    ],
)
def test_a_deviation_names_its_key_and_both_values_to_both_sides(
    path: tuple[Any, ...], value: Any, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = CONFIGS["private"]
    request = request_of(config)
    logging.getLogger("flwr").propagate = True
    grid = grid_of(config, contract_of(config))
    whole = {**json.loads(pack_task(request.task)), "privacy": request.task.privacy.model_dump(mode="json")}
    said = ask(grid, request, json.dumps(changed(whole, path, value)))
    assert f"it refuses to answer (contract): the server asks with {told}; run what was agreed on" in said
    assert told in caplog.text


def test_a_term_that_is_there_twice_is_another_recipe() -> None:
    """Named by its statistic, the second would stand for both."""
    held = contract_of(CONFIGS["plain"])
    first, *rest = held.task.recipe.terms
    twice = replace(held.task.recipe, terms=(replace(first, weight=9.0), first, *rest))
    found = agreed.deviation(held, replace(request_of(CONFIGS["plain"]), task=replace(held.task, recipe=twice)))
    assert found is not None
    assert found.key == "recipe.align"


ASKED: dict[str, tuple[str, dict[str, Any], str]] = {
    "no contract": ("private", {"contract": ""}, "contract"),
    "another contract": ("private", {"contract": "0" * 64}, "contract"),
    "a round too many": ("private", {"round": 4}, "round"),
    "a round before the first": ("plain", {"round": 0}, "round"),
    "a statistic of its own": ("plain", {"measure": ("feature_covariance",)}, "measure"),
    "two exchanges at once": ("plain", {"measure": ("gradient", "pooled_gradient", "risk")}, "measure"),
    "nothing measured": ("plain", {"measure": ()}, "measure"),
    "an evaluation beside statistics": ("plain", {"evaluate": ("train",)}, "evaluate"),
    "a part that is not evaluated": (
        "private",
        {"kind": "evaluate", "measure": (), "evaluate": ("train",)},
        "evaluate",
    ),
    "a part twice": ("plain", {"kind": "evaluate", "measure": (), "evaluate": ("train", "train")}, "evaluate"),
    "an evaluation of nothing": ("plain", {"kind": "evaluate", "measure": ()}, "evaluate"),
    "counts that no metric needs": (
        "plain",
        {"kind": "evaluate", "measure": (), "evaluate": ("held_out",), "asked": Asked(("confusion",), (), "", 2)},
        "asked",
    ),
    "statistics beside an update": ("plain", {"kind": "train"}, "measure"),
    "an evaluation beside an update": (
        "plain",
        {"kind": "train", "measure": (), "evaluate": ("held_out",)},
        "evaluate",
    ),
    "what rides along never": (
        "piggyback",
        {"kind": "train", "measure": ("risk",), "evaluate": ("train",)},
        "evaluate",
    ),
    "references of its own": ("plain", {"references": {"risk": torch.zeros(())}}, "references"),
    "a rule's tensors of its own": ("plain", {"kind": "train", "measure": (), "sent": {"x/y": torch.zeros(1)}}, "sent"),
    "a rule's tensors to measure": ("local", {"sent": {"scaffold/control": torch.zeros(1)}}, "sent"),
    "what is counted of an evaluation": (
        "plain",
        {"kind": "evaluate", "measure": (), "evaluate": ("train",), "asked": Asked(("confusion",), classes=2)},
        "asked",
    ),
    "groups of an evaluation": (
        "counted",
        {"kind": "evaluate", "measure": (), "evaluate": ("train",), "asked": Asked(("confusion",), (), "age", 2)},
        "asked",
    ),
    "a weight over one": ("plain", {"averaging_weight": 2.0}, "averaging_weight"),
    "a weight that is no number": ("plain", {"averaging_weight": float("nan")}, "averaging_weight"),
    "what rides along, but not all": ("piggyback", {"kind": "train", "measure": ("gradient",)}, "measure"),
}


HEADS = {"kind": "heads", "measure": (), "sent": {"0": torch.zeros(2, 1, 7, dtype=torch.float64)}}
ASKED |= {
    "a diagnosis that nobody allowed": ("plain", HEADS, "kind"),
    "directions that nobody allowed": ("plain", {**HEADS, "kind": "directions"}, "kind"),
}


@pytest.mark.parametrize("name", ASKED)
def test_what_was_not_agreed_on_is_refused_and_never_computed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    which, changes, key = ASKED[name]
    config = CONFIGS[which]
    domains = load_domains(config)

    def data(_: Context) -> Any:
        raise AssertionError("its data were read")

    app = client_app(
        lambda _: build(config.model, domains.input_shape, domains.classes, 0), data, contract=contract_of(config)
    )
    grid = InlineGrid(app, 2)
    told = ask(grid, request_of(config, **changes))
    assert f"it refuses to answer (contract): the server asks with {key} " in told
    assert contracted.book_of(contract_of(config), context_of(grid)).refused == {key: 1}


QUESTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "statistics beside heads": ({"measure": ("gradient",)}, "measure"),
    "an evaluation beside heads": ({"evaluate": ("train",)}, "evaluate"),
    "heads that are no numbers": ({"sent": {"0": torch.full((1, 1, 7), float("nan"))}}, "sent"),
    "a matrix": ({"sent": {"0": torch.zeros(3, 7)}}, "sent"),
    "a name of its own": ({"sent": {"head": torch.zeros(1, 1, 7)}}, "sent"),
    "one head too many": ({"sent": {"0": torch.zeros(6, 1, 7)}}, "diagnose"),
    "a round too many": ({"round": 4}, "round"),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_diagnosis_is_held_to_what_was_allowed(name: str) -> None:
    changes, key = QUESTIONS[name]
    config = CONFIGS["plain"]
    held = contract_of(config, diagnose=5)
    grid = grid_of(config, held)
    told = ask(grid, request_of(config, **{**HEADS, **changes}))
    assert f"the server asks with {key} " in told
    assert contracted.book_of(held, context_of(grid)).asked == {}


def test_heads_and_directions_are_counted_together_and_a_volunteer_answers_nothing_else() -> None:
    config = CONFIGS["plain"]
    shape = (2, *_head_shape(config))
    heads = {**HEADS, "sent": {"0": torch.zeros(shape, dtype=torch.float64)}}
    held = contract_of(config, diagnose=5)
    grid = grid_of(config, held)
    assert ask(grid, request_of(config, **heads)) == ""
    assert ask(grid, request_of(config, **{**heads, "kind": "directions"})) == ""
    assert "2 more, and agreed was 5 heads and directions in all, of which 4" in ask(grid, request_of(config, **heads))
    assert contracted.book_of(held, context_of(grid)).asked == {"heads": 2, "directions": 2}
    assert ask(grid, request_of(config)) == ""  # rounds are another matter
    lent = grid_of(config, contract_of(config, diagnose=5, volunteer="target"))
    assert ask(lent, request_of(config, **heads)) == ""
    for kind in ("measure", "train", "evaluate"):
        changes = {"measure": {}, "train": {"measure": ()}, "evaluate": {"measure": (), "evaluate": ("train",)}}[kind]
        told = ask(lent, request_of(config, kind=kind, **changes))
        assert f"kind '{kind}', and agreed was heads or directions: this site volunteers 'target'" in told


def _head_shape(config: Config) -> tuple[int, int]:
    weight = parameters_of(config)["head.weight"]
    return weight.shape[0], weight.shape[1] + 1


@pytest.mark.parametrize("name", ["private", "plain"])
def test_no_client_answers_a_diagnosis_without_a_contract_or_under_protection(name: str) -> None:
    config = CONFIGS[name]
    held = contract_of(config, diagnose=None) if name == "private" else None
    told = ask(grid_of(config, held), request_of(config, **HEADS))
    assert ("privacy.protect: examples" if name == "private" else "it holds no contract") in told


def test_an_introduction_to_another_run_is_refused() -> None:
    config, other = CONFIGS["private"], CONFIGS["plain"]
    grid = grid_of(config, contract_of(config))
    for text, digest in ((pack_task(contract_of(other).task), ""), (pack_task(contract_of(config).task), "0" * 64)):
        content = handshake.greeted(pack_introduction(text, {}, {}, digest))
        (reply,) = grid.send_and_receive([Message(content, 2, "query.introduce", group_id="1")])
        failed = find_failure(reply)
        assert failed is not None
        assert "it refuses to answer (contract)" in failed.sentence


WORDS = st.sampled_from(
    ["gradient", "hessian_diagonal", "gradient_hessian_product", "pooled_gradient", "risk", "held_out", "train", ""]
)
NAMES = st.lists(WORDS, max_size=3).map(tuple)


@st.composite
def hostile(draw: Any) -> tuple[str, dict[str, Any]]:
    """Fields of a request as a server likes them, of one of the configs."""
    name = draw(st.sampled_from(sorted(CONFIGS)))
    groups = contract_of(CONFIGS[name]).exchanges
    return name, {
        "kind": draw(st.sampled_from(["measure", "train", "evaluate"])),
        "round": draw(st.integers(-1, 5)),
        "measure": draw(st.one_of(st.sampled_from([(), *groups]), NAMES)),
        "evaluate": draw(st.one_of(st.sampled_from([(), ("held_out",), ("held_out", "train")]), NAMES)),
        "references": {one: torch.zeros(2) for one in draw(NAMES)},
        "averaging_weight": draw(st.sampled_from([0.5, 0.5, 1.0, 0.0, -1.0, 1e300, float("nan")])),
        "sent": {one: torch.zeros(1) for one in draw(NAMES)},
        "contract": draw(st.sampled_from(["honest", "honest", "honest", "", "0" * 64])),
    }


@examined(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(hostile())
def test_a_request_of_any_kind_is_refused_or_one_that_was_agreed_on(asked: tuple[str, dict[str, Any]]) -> None:
    name, given_fields = asked
    config = CONFIGS[name]
    held = contract_of(config)
    digest = held.digest if given_fields["contract"] == "honest" else given_fields["contract"]
    request = request_of(config, **{**given_fields, "contract": digest})
    if agreed.deviation(held, request) is not None:
        return
    groups, private = held.exchanges, config.privacy.protect == "examples"
    riding = tuple(dict.fromkeys(one for group in groups for one in group))
    assert request.contract == held.digest
    assert 1 <= request.round <= 3
    assert set(request.references) <= set(riding)
    assert 0 < request.averaging_weight <= 1
    assert not request.sent
    if request.kind == "measure":
        assert (request.measure in groups, request.evaluate) == (True, ())
    elif request.kind == "train":
        assert request.measure in ((), riding if name == "piggyback" else ())
        assert request.evaluate in ((), ("held_out",) if name == "piggyback" else ())
    else:
        assert request.measure == ()
        assert request.evaluate
    assert set(request.evaluate) <= ({"held_out"} if private else {"held_out", "train"})


# --- rounds ---


def test_rounds_go_on_and_what_is_asked_again_is_counted() -> None:
    config = CONFIGS["plain"]
    held = contract_of(config, repeats=2)
    grid = grid_of(config, held)
    for number in (1, 2, 1, 2):
        assert ask(grid, request_of(config, round=number)) == ""
    told = ask(grid, request_of(config, round=1))
    assert "round 1 once more (measure gradient), and agreed was 2 answers again in all" in told
    assert ask(grid, request_of(config, round=3)) == ""
    assert ask(grid, request_of(config, kind="evaluate", measure=(), evaluate=("held_out",), round=1)) == ""
    book = contracted.book_of(held, context_of(grid))
    assert book.latest == {"measure gradient": 3, "evaluate": 1}
    assert (book.again, book.refused) == ({"measure gradient": 2}, {"round": 1})


def test_what_fails_has_been_asked_for_all_the_same() -> None:
    """Else a server could ask as often as it likes for what fails at the end, and look at whether it does."""
    config = CONFIGS["plain"]
    held = contract_of(config, repeats=1)
    grid = grid_of(config, held)
    wrong = request_of(config, parameters={}, references={"gradient": torch.zeros(9)}, kind="train", measure=())
    assert [("round" in ask(grid, wrong)) for _ in range(3)] == [False, False, True]


def test_a_run_may_be_begun_anew_as_often_as_was_agreed(tmp_path: Path) -> None:
    config = CONFIGS["plain"]
    grid = grid_of(config, contract_of(config, repeats=3))
    run_on(grid, config, tmp_path / "a")
    run_on(grid, config, tmp_path / "b")
    with pytest.raises(FedhaError, match=r"round 1 once more .*3 answers again in all, which were given"):
        run_on(grid, config, tmp_path / "c")


def test_what_an_app_of_ones_own_has_answered_is_counted_over_all_runs_where_it_has_a_folder(tmp_path: Path) -> None:
    """Each run of Flower's has a context of its own, and each of two tasks at once a copy of it."""
    config = CONFIGS["plain"]
    held = contract_of(config, repeats=2)
    for books, answered in ((None, 4), (tmp_path, 3)):  # the first one, and two again
        told = [ask(grid_of(config, held, books), request_of(config)) for _ in range(4)]
        assert told.count("") == answered
    assert "2 answers again in all, which were given" in told[-1]
    (book,) = tmp_path.glob("*.json")
    assert from_text(book.read_text()).refused == {"round": 1}
    assert "in which this client counts what it answered: " in ask(grid_of(config, held, book), request_of(config))


def test_constants_stay_those_of_the_first_request() -> None:
    config = CONFIGS["plain"]
    held = contract_of(config)
    book = contracted.book_of(held, context_of(grid_of(config, held)))
    book = book.answering(request_of(config, constants="a"))
    assert book.deviation(held, request_of(config, constants="a", round=2)) is None
    found = book.deviation(held, request_of(config, constants="b", round=2))
    assert found is not None
    assert found.key == "constants"


@pytest.mark.parametrize("text", ["", "{}", '{"contract": 1}', "[]", '{"latest": {"a": "b"}}'])
def test_a_damaged_book_answers_nothing(text: str) -> None:
    config = CONFIGS["plain"]
    with pytest.raises(FedhaError, match="cannot be read"):
        from_text(text)
    grid = grid_of(config, contract_of(config))
    context_of(grid).state[contracted.RECORD] = ConfigRecord({"book": text})
    assert "what this client answered before cannot be read" in ask(grid, request_of(config))


# --- the client's own words ---


def test_numbers_that_were_not_agreed_on_do_not_leave(tmp_path: Path) -> None:
    config = CONFIGS["plain"]
    grid = grid_of(config, contract_of(config, numbers=("penalty", "held_out", "train")))
    run_on(grid, config, tmp_path)
    sent = {name for one in grid.sent for record in one.content.metric_records.values() for name in record}
    assert not {"loss", "risk", "accuracy"} & sent
    assert "held_out/accuracy" in sent


def test_a_client_may_evaluate_less_than_the_run_would() -> None:
    config = CONFIGS["plain"]
    grid = grid_of(config, contract_of(config, evaluate=("held_out",)))
    asked = {"kind": "evaluate", "measure": ()}
    assert ask(grid, request_of(config, **asked, evaluate=("held_out",))) == ""
    assert "evaluate [" in ask(grid, request_of(config, **asked, evaluate=("held_out", "train")))


def test_a_network_is_held_to_the_one_that_was_agreed_on() -> None:
    config = CONFIGS["plain"]
    domains = load_domains(config)
    network = build(config.model, domains.input_shape, domains.classes, 0)
    own = contract(config.recipe[0], config.training, privacy=config.privacy, network=network)
    request = replace(request_of(config), contract=own.digest)
    assert ask(grid_of(config, own), request) == ""
    other = build(config.model.model_copy(update={"hidden": [7]}), domains.input_shape, domains.classes, 0)
    own = contract(config.recipe[0], config.training, privacy=config.privacy, network=other)
    assert "this client's network has the digest" in ask(grid_of(config, own), request)


@pytest.mark.parametrize(
    ("own", "problem"),
    [
        ({"evaluate": ("test",)}, "evaluates 'test'; known are held_out, train"),
        ({"numbers": ("labels",)}, "sends 'labels'"),
        ({"repeats": -2}, "repeats -2"),
        ({"split": "abc"}, "the key of a split has 3 characters"),
    ],
)
def test_words_that_mean_nothing_are_refused(own: dict[str, Any], problem: str) -> None:
    with pytest.raises(FedhaError, match=problem):
        contract_of(CONFIGS["plain"], **own)


def test_an_app_is_told_what_a_contract_is() -> None:
    with pytest.raises(FedhaError, match="contract"):
        client_app(lambda _: None, lambda _: None, contract={"recipe": "erm"})  # type: ignore[arg-type, return-value]
    with pytest.raises(FedhaError, match="was given books and no contract"):
        client_app(lambda _: None, lambda _: None, books=Path())  # type: ignore[arg-type, return-value]
    with pytest.raises(FedhaError, match="books"):
        client_app(lambda _: None, lambda _: None, books="here")  # type: ignore[arg-type, return-value]
