"""A server rule of somebody's own is a value: named in a config or handed over, tried before the first round."""

import importlib.util
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

import fedha
from fedha import plugins
from fedha.config import TrainingConfig, load, parse, to_yaml
from fedha.engine.inline import InlineGrid
from fedha.errors import FedhaError
from fedha.exchange import Request, Task
from fedha.federation import Server, run_round
from fedha.flower import HessianAlignment, client_app
from fedha.flower.wire import pack_task, unpack_task
from fedha.objects import code_digest
from fedha.recipes import RECIPES
from fedha.rules import Rule, mean_step, table
from fedha.rules.table import RULES
from fedha.runs import runfolder
from fedha.simulation import Result
from fedha.training import answer_train
from tests import models_of_others, rules_of_others
from tests.driving import train_over
from tests.problems import SEED, Problem, make_problem
from tests.test_simulation import DOMAINS

LOCAL = {"mode": "local", "rounds": 3, "local": {"epochs": 1, "batch_size": 6, "learning_rate": 0.2}}
OWN = "tests.rules_of_others:"


def local(**changes: Any) -> TrainingConfig:
    return TrainingConfig.model_validate({**LOCAL, **changes})


def trained(problem: Problem, training: TrainingConfig) -> dict[str, torch.Tensor]:
    return problem.train(RECIPES["erm"], training, training.rounds)


# --- the rules of the table ---


@pytest.mark.parametrize("name", RULES)
def test_every_row_makes_the_rule_of_its_name(name: str) -> None:
    (rule,) = Task(RECIPES["erm"], TrainingConfig(mode=RULES[name].mode, optimizer=name), SEED).rules
    assert (rule.name, rule.modes, rule.at_clients) == (name, (RULES[name].mode,), RULES[name].at_clients)


def test_what_a_recipe_asks_of_the_server_comes_with_it() -> None:
    rules = {name: [one.name for one in Task(RECIPES[name], TrainingConfig(), SEED).rules] for name in RECIPES}
    asking = {name: found for name, found in rules.items() if found != ["adam"]}
    assert asking == {
        "groupdro": ["groupdro", "adam"],
        "afl": ["afl", "adam"],
        "fediir": ["reference_average", "adam"],
    }


def test_a_step_puts_new_tensors_in_the_old_ones_place() -> None:
    problem = make_problem()
    server = problem.server(RECIPES["groupdro"], TrainingConfig())
    run_round(server, problem.clients(), 1)
    kept = [*server.parameters.values(), *(value for state in server.states.values() for value in state.values())]
    before = [value.clone() for value in kept]
    run_round(server, problem.clients(), 2)
    assert all(torch.equal(one, other) for one, other in zip(kept, before, strict=True))


# --- somebody's own ---


def test_fedprox_pulls_each_step_back() -> None:
    problem = make_problem()
    strong, none, plain = (
        trained(problem, local(optimizer=one))
        for one in ({"name": f"{OWN}prox", "strength": "3.0"}, {"name": f"{OWN}prox", "strength": 0}, "fedavg")
    )
    assert_close(none, plain, rtol=0, atol=0)
    start = {name: value.detach() for name, value in problem.model.named_parameters()}
    moved = [sum(float((end[name] - start[name]).square().sum()) for name in start) for end in (strong, plain)]
    assert moved[0] < 0.9 * moved[1]


def test_fednova_weighs_steps_not_moves() -> None:
    problem = make_problem()
    training = local(optimizer=f"{OWN}nova", averaging="clients")
    server = problem.server(RECIPES["erm"], training)
    start = {name: value.clone() for name, value in server.parameters.items()}
    replies = [answer_train(client, Request(server.task, 1, start)) for client in problem.clients()]
    steps = [2, 3, 3]  # of 12, 17 and 14 examples in batches of 6
    assert [float(one.tensors["rule/nova/steps"]) for one in replies] == steps
    run_round(server, problem.clients(), 1)
    for name, value in start.items():
        move = sum(one.tensors[name] / k for one, k in zip(replies, steps, strict=True)) / 3
        assert_close(server.parameters[name], value - sum(steps) / 3 * move, rtol=0, atol=1e-12)


def test_a_maker_may_read_the_training_and_a_rule_may_stand_in_a_module_as_it_is() -> None:
    problem = make_problem()
    half = trained(problem, local(optimizer=f"{OWN}halved", rounds=1))
    assert_close(half, trained(problem, local(optimizer="fedavg", learning_rate=0.5, rounds=1)), rtol=0, atol=0)
    assert_close(
        trained(problem, local(optimizer=f"{OWN}AVERAGE")), trained(problem, local(optimizer="fedavg")), rtol=0, atol=0
    )


def test_a_task_with_an_own_rule_travels() -> None:
    named = {"name": f"{OWN}prox", "strength": 0.25}
    task = Task(RECIPES["erm"], local(optimizer=named), SEED)
    parse({"training": {**LOCAL, "optimizer": named}})  # the client's own config
    there = unpack_task(pack_task(task))
    assert there == task
    assert [rule.name for rule in there.rules] == ["prox"]


def test_a_rule_that_a_message_alone_names_is_not_imported() -> None:
    """A server could have anything called."""
    text = pack_task(Task(RECIPES["erm"], local(), SEED)).replace('"optimizer": null', '"optimizer": "posix:abort"')
    with pytest.raises(FedhaError, match="rule is 'posix:abort', which this client was not started with; name it in"):
        unpack_task(text)
    text = text.replace('"posix:abort"', '{"name": "subprocess:run", "args": "true"}')
    with pytest.raises(FedhaError, match="rule is 'subprocess:run', which this client"):
        unpack_task(text)


def test_a_stranger_names_the_rule_at_both_ends() -> None:
    name = f"{OWN}prox"
    table._allowed.discard(name)
    problem = make_problem()

    def train(**told: Any) -> dict[str, torch.Tensor]:
        app = client_app(
            lambda _: problem.model, lambda at: problem.domains[int(at.node_config["partition-id"])], **told
        )
        strategy = HessianAlignment("erm", local(optimizer=name), seed=SEED, clients=3)
        return train_over(InlineGrid(app, 3), strategy, problem, 3)[0]

    assert_close(train(rule=name), trained(problem, local(optimizer=name)), rtol=0, atol=0)


def test_a_package_adds_a_rule_by_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "entry_points", lambda group: [EntryPoint("proximal", f"{OWN}prox", group)])
    plugins.installed.cache_clear()
    try:
        given = parse({"training": {**LOCAL, "optimizer": {"name": "proximal", "strength": 0.25}}}).training
        assert [rule.name for rule in Task(RECIPES["erm"], given, SEED).rules] == ["prox"]
        with pytest.raises(FedhaError, match="there is no optimizer 'proximl'; did you mean 'proximal'"):
            parse({"training": {**LOCAL, "optimizer": "proximl"}})
    finally:
        plugins.installed.cache_clear()


@pytest.mark.parametrize(
    ("optimizer", "said"),
    [
        ("no.such.module:rule", "training.optimizer is 'no.such.module:rule', but there is no such module"),
        (f"{OWN}nothing", "has no 'nothing', only .*prox"),
        (f"{OWN}NUMBER", "which is a int; name a Rule, or what makes one"),
        (f"{OWN}no_rule", "which makes a int; let it make a fedha.rules.Rule"),
        (f"{OWN}fails", "fails with KeyError: 'strength' .*rules_of_others.py, line"),
        ({"name": f"{OWN}prox", "strenght": 1}, "unexpected keyword argument 'strenght'; .*prox takes strength"),
        ({"name": f"{OWN}AVERAGE", "rate": 1}, "is a rule as it is and takes no rate"),
        (f"{OWN}forgetful", "rule 'forgetful': its aggregate gives parameters without 'head.bias'"),
        (f"{OWN}counts", r"its answer gives 'steps' as torch.int64 of shape \(\), which cannot be averaged"),
        (f"{OWN}loses", "what the server remembers must keep names, .*weight of rule loses is missing"),
        (f"{OWN}divides", r"rule 'divides': its correct fails with ZeroDivisionError: .*rules_of_others.py, line"),
        (f"{OWN}overwrites", "rule 'overwrites' changes tensors that it is given in place; give new ones"),
        ({"name": "objects", "digest": "abc"}, "known by the digest abc, which this process does not have"),
    ],
)
def test_a_rule_that_does_not_work_is_said_before_the_first_round(optimizer: Any, said: str) -> None:
    with pytest.raises(FedhaError, match=said):
        make_problem().server(RECIPES["erm"], local(optimizer=optimizer))


@pytest.mark.parametrize(
    ("part", "function", "said"),
    [
        ("init", lambda parameters: None, "its init returns nothing; let it return the server's tensors by name"),
        ("sends", lambda state: 3, "its sends returns a int; let it return tensors by name"),
        ("correct", lambda step: None, "its correct returns nothing; let it return the gradient"),
        ("answer", lambda work: {}, "its answer returns a dict; let it return two mappings"),
        ("aggregate", lambda state, answers: None, "its aggregate returns nothing; let it return two mappings"),
        ("aggregate", lambda state, answers: (answers.parameters, None), r"returns tuple \(dict, NoneType\); let"),
        ("aggregate", lambda state, answers: (answers.parameters, {"n": 1.0}), "its aggregate gives 'n' that is no"),
        ("hears", lambda state, risk: {"n": risk}, "its hears gives 'n' that is no tensor"),
        ("shows", lambda state, parameters, over: None, "its shows returns nothing; let it return the parameters"),
        ("refer", lambda state, references: None, "its refer returns nothing; let it return two mappings: the ref"),
        ("refer", lambda state, references: ({}, {}), "its refer gives references without 'gradient'"),
        ("weigh", lambda state, cohort: None, "its weigh returns nothing; let it return two mappings: a weight for"),
        ("weigh", lambda state, cohort: ({0: 1.0}, {}), "its weigh gives weights of 0 and none of client 1; give a"),
        ("weigh", lambda state, cohort: ({0: 1.0, 1: None}, {}), "its weigh gives client 1 the weight None"),
        ("weigh", lambda state, cohort: ({0: 1.0, 1: float("nan")}, {}), "its weigh gives client 1 the weight nan"),
    ],
)
def test_what_a_rules_function_returns_is_looked_at(part: str, function: Any, said: str) -> None:
    rule = Rule("mine", **{part: function})
    with pytest.raises(FedhaError, match=f"rule 'mine': .*{said}"):
        fedha.simulate(DOMAINS, models_of_others.fitted, "iga", target="d2", training=LOCAL | {"optimizer": rule})


def test_a_rule_that_corrects_local_steps_has_none_in_synchronous_mode() -> None:
    with pytest.raises(FedhaError, match="'prox', which corrects clients' local steps; set training"):
        make_problem().server(RECIPES["erm"], TrainingConfig(optimizer=f"{OWN}prox"))


@pytest.mark.parametrize("name", ["", "a/b", "a\nb"])
def test_a_rule_has_a_name(name: str) -> None:
    with pytest.raises(FedhaError, match="give it a name without slashes"):
        Rule(name)


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"optimizer": "scafold", "mode": "local"}, "there is no optimizer 'scafold'; did you mean 'scaffold'"),
        ({"optimizer": 3}, "3 names no rule; give a name, or {name: …, argument: …}"),
        ({"optimizer": {"strength": 1}}, "names no rule; give a name"),
        ({"optimizer": {"name": "adam", "beta": 1}}, "optimizer 'adam' has no option 'beta'; did you mean 'betas'"),
    ],
)
def test_a_config_names_a_rule_or_says_what_there_is(training: dict[str, Any], said: str) -> None:
    with pytest.raises(FedhaError, match=said):
        parse({"training": training})


def test_a_config_with_an_own_rule_is_read_where_its_module_is_not(tmp_path: Path) -> None:
    """A report needs no rule, and a written config stays as it was."""
    given = parse({"training": {**LOCAL, "optimizer": {"name": "not.here:rule", "strength": 0.5}}})
    (tmp_path / "config.yaml").write_text(to_yaml(given))
    assert load(tmp_path / "config.yaml").training.optimizer == {"name": "not.here:rule", "strength": "0.5"}


# --- handed over ---


def simulate(optimizer: Any, out: Path | None = None, **options: Any) -> Result:
    training = {**LOCAL, "optimizer": optimizer}
    return fedha.simulate(DOMAINS, models_of_others.fitted, "erm", training=training, out=out, **options)


def model_of(result: Result) -> dict[str, torch.Tensor]:
    return load_file(result.folder / runfolder.MODEL)


def test_rules_with_an_import_name_are_recorded_by_it(tmp_path: Path) -> None:
    named = simulate({"name": f"{OWN}prox", "strength": 2.0}, tmp_path / "named", engine="inline")
    handed = simulate({"name": rules_of_others.prox, "strength": 2.0}, tmp_path / "handed", engine="inline")
    assert_close(model_of(handed), model_of(named), rtol=0, atol=0)
    written = [load(tmp_path / one / "config.yaml").training.optimizer for one in ("named", "handed")]
    assert written[0] == written[1] == {"name": f"{OWN}prox", "strength": "2.0"}
    simulate(rules_of_others.AVERAGE, tmp_path / "value", engine="inline")
    assert load(tmp_path / "value" / "config.yaml").training.optimizer == {"name": f"{OWN}AVERAGE"}


def test_a_rule_without_an_import_name_is_recorded_by_digest_and_handed_over_again(tmp_path: Path) -> None:
    def rule(rate: float) -> Rule:
        return Rule("mine", aggregate=lambda state, answers: mean_step(state, replace(answers, rate=rate)))

    simulate(rule(0.5), tmp_path / "run")
    written = load(tmp_path / "run" / "config.yaml").training.optimizer
    assert written == {"name": "objects", "digest": code_digest(rule(0.5))}
    assert written != {"name": "objects", "digest": code_digest(rule(0.25))}
    simulate(rule(0.5), tmp_path / "run", resume=True)
    with pytest.raises(FedhaError, match=r"training\.optimizer\.digest was"):
        simulate(rule(0.25), tmp_path / "run", resume=True)
    with pytest.raises(FedhaError, match="workers cannot import this rule; define it in a module"):
        simulate(rule(0.5), engine="ray")


def test_what_is_no_rule_is_refused() -> None:
    with pytest.raises(FedhaError, match="training's optimizer is 3; give a name, a fedha"):
        simulate(3)


def test_the_servers_state_is_looked_at_when_a_checkpoint_is_read() -> None:
    from fedha.rules.applied import check_states

    server: Server = make_problem().server(RECIPES["erm"], local(optimizer="scaffold"))
    check_states(server.task.rules, server.parameters, server.states)
    wrong = {"scaffold": {**server.states["scaffold"], "head.bias": torch.zeros(7)}}
    with pytest.raises(ValueError, match=r"head\.bias of rule scaffold is .*\(7,\), not"):
        check_states(server.task.rules, server.parameters, wrong)
    with pytest.raises(ValueError, match="is missing"):
        check_states(server.task.rules, server.parameters, {})


def test_configs_know_the_rules_without_torch() -> None:
    """`fedha --help` reads the schema, and torch takes a second to import."""
    found = importlib.util.find_spec("fedha.rules.table")
    assert found is not None
    assert "torch" not in Path(str(found.origin)).read_text()
    assert "import torch" not in Path(sys.modules["fedha.rules.rule"].__file__ or "").read_text()
