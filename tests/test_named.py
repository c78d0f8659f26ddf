"""A config may name anybody's network; what it cannot find or call it says with the name and the mend."""

import pytest
import torch
import yaml
from torch.testing import assert_close

from fedha.config import Config, ModelConfig, parse, to_yaml
from fedha.errors import FedhaError
from fedha.models import SplitModel, build
from fedha.named import call, name_of
from fedha.yamlfile import parse_yaml
from tests import models_of_others

HERE = "tests.models_of_others"


def config_of(model: object) -> Config:
    return parse({"model": model})


def test_a_named_function_gets_the_section_and_what_it_asks_for() -> None:
    made = build(config_of({"name": f"{HERE}:fitted", "width": 7}).model, (2, 3), 4, 0)
    assert made.head.weight.shape == (4, 7)
    assert made.featurizer[1].in_features == 6


def test_its_weights_come_from_the_runs_seed_and_torchs_own_state_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    config = ModelConfig(name=f"{HERE}:make")
    one, same, other = (build(config, (128,), 2, seed).head.weight for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_config_that_was_written_is_read_back_alike() -> None:
    config = config_of({"name": f"{HERE}:make", "width": 3, "hidden": [9]})
    assert config.model.options == {"width": 3, "hidden": [9]}
    assert parse(yaml.safe_load(to_yaml(config))) == config


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ({"name": "mpl"}, "there is no network 'mpl'; did you mean 'mlp'.*package.module:function"),
        ({"name": "mlp", "options": {"width": 3}}, "network 'mlp' takes no options, got width"),
    ],
)
def test_a_network_that_is_not_on_the_list_is_refused_with_the_door(model: object, problem: str) -> None:
    with pytest.raises(FedhaError, match=problem):
        config_of(model)


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("nosuchmodule:make", {}, "'nosuchmodule:make', but there is no such module"),
        (f"{HERE}:mak", {}, "has no 'mak', only .*make, fitted"),
        (":make", {}, "write your own function as package.module:function"),
        (f"{HERE}:__name__", {}, "which is a str; name a function"),
        (f"{HERE}:make", {"widht": 3}, r"unexpected keyword argument 'widht'; .*make takes width: int = 16"),
        (f"{HERE}:fails", {}, r"fails with KeyError: 'weights.bin' \(.*models_of_others.py, line \d+\); mend it"),
        (f"{HERE}:unsplit", {}, r"makes a Whole; let it return .*SplitModel.of"),
    ],
)
def test_what_cannot_be_made_is_said(name: str, options: dict[str, object], problem: str) -> None:
    with pytest.raises(FedhaError, match=problem):
        build(ModelConfig(name=name, options=options), (128,), 2, 0)


@pytest.mark.parametrize(
    ("name", "options", "key"),
    [
        ("make", {"width": ["3", "4"]}, "width"),
        ("counted", {"layers": [3, 4]}, "layers"),
        ("counted", {"sizes": [3, 4], "layers": "x"}, None),
        ("counted", {"many": ["x"]}, None),
    ],
)
def test_a_list_where_none_is_taken_is_said_to_be_no_grid(
    name: str, options: dict[str, object], key: str | None
) -> None:
    with pytest.raises(FedhaError, match="model") as refused:
        build(ModelConfig(name=f"{HERE}:{name}", options=options), (128,), 2, 0)
    hint = f"; for a sweep over the values of model.{key} write {{choice: [3, 4]}}"
    assert (hint in str(refused.value)) is (key is not None), refused.value
    assert ("choice" in str(refused.value)) is (key is not None)


def test_an_import_that_fails_says_how(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_network.py").write_text("import torch.nosuchthing\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FedhaError, match=r"its import fails with ModuleNotFoundError: No module named 'torch\.nosuch"):
        build(ModelConfig(name="broken_network:make"), (128,), 2, 0)


def test_functions_know_whether_another_process_finds_them() -> None:
    assert name_of(models_of_others.make) == f"{HERE}:make"
    assert name_of(lambda: None) is None


def test_a_network_is_split_at_its_head_and_computes_what_it_did() -> None:
    whole = models_of_others.Whole()
    split = SplitModel.of(whole, "top.fc")
    inputs = torch.randn(3, 4)
    assert_close(split(inputs), whole(inputs))
    assert split.featurizer(inputs).shape == (3, 5)
    with pytest.raises(FedhaError, match="no layer 'fc' to be its head; its layers are body, top"):
        SplitModel.of(whole, "fc")


def test_arguments_from_a_config_are_what_they_look_like_but_where_a_text_is_asked_for() -> None:
    options = {"title": "046", "width": "3", "bias": "false", "mode": "2"}
    assert call("model.name", f"{HERE}:titled", options, {}) == ("046", 3, False, "2")
    written = parse_yaml(f"model: {{name: '{HERE}:make', width: 24}}", "a config")
    assert build(parse(written).model, (128,), 2, 0).featurizer[1].out_features == 24
