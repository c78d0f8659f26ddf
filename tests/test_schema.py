"""Laws of what a schema makes of texts: names as they are written, numbers as people write them, sentences of ours."""

from pathlib import Path

import pytest

from fedha.config import Config, DataConfig, RecipeConfig, TrainingConfig, load
from fedha.deploy import inventory
from fedha.errors import FedhaError
from fedha.flower.strategy import HessianAlignment
from fedha.privacy.limits import read_limits
from fedha.schema import number

NAMES = ["4", "046", "no", "2024-01-01", "1e-1", "yes", "0x1F", "1_000", "1:30", "true", ".5", "08", "="]


def config(tmp_path: Path, text: str, *overrides: str) -> Config:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return load(path, overrides)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_taken_as_it_is_written(tmp_path: Path, name: str) -> None:
    data, recipe = f"{{name: heart, target: {name}, sources: [{name}]}}", f"{{name: {name}, align: {{risk: 1}}}}"
    text = f"name: {name}\ndata: {data}\nrecipe: {recipe}\n"
    for found in (
        config(tmp_path, text + f"engine: {{address: {name}}}"),
        config(
            tmp_path,
            "",
            f"name={name}",
            "data.name=heart",
            f"data.target={name}",
            f"data.sources=[{name}]",
            f"recipe={{name: {name}, align: {{risk: 1}}}}",
            f"engine.address={name}",
        ),
    ):
        held = (found.name, found.data.target, found.data.sources, found.recipe[0].name, found.engine.address)
        assert held == (name, name, [name], name, name)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-1", 0.1),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("007", 7),
        ("-3", -3),
        ("1_000", 1000),
        ("0x1F", 31),
        ("1:30", None),
        ("1,5", None),
        ("nan", None),
        (".inf", None),
        ("true", None),
        ("", None),
        ("٣", None),
        ("9" * 5000, None),
    ],
)
def test_a_number_is_what_people_mean(text: str, value: float | None) -> None:
    assert number(text) == value


def test_every_number_of_the_schema_takes_an_exponent(tmp_path: Path) -> None:
    found = config(
        tmp_path,
        "seed: [1e1, 007]",
        "training.clients_per_round=1e-1",
        "training.rounds=1e3",
        "training.learning_rate=1e-1",
        "model.hidden=[1e2]",
        "privacy.scales={risk: 1e-2}",
        "data.held_out=1e-1",
        "recipe={name: fishr, align: {gradient_variance: 1e2}}",
        "engine.batching=no",
    )
    assert (found.seed, found.training.rounds, found.model.hidden) == ([10, 7], 1000, [100])
    assert (found.training.clients_per_round, found.data.held_out) == (0.1, 0.1)
    assert (found.privacy.scales, found.recipe[0].align) == ({"risk": 0.01}, {"gradient_variance": 100.0})
    assert found.engine.batching is False
    path = tmp_path / "limits.yaml"
    path.write_text("max_epsilon: 1e1\nmin_examples: 1e2\nhead: {largest_norm: 1e3}\nstatistics: [no]\n")
    limits = read_limits(path)
    assert (limits.max_epsilon, limits.min_examples, limits.head.largest_norm) == (10.0, 100, 1000.0)
    assert limits.statistics == ("no",)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.rounds=1:30", "training.rounds is '1:30'"),
        ("training.learning_rate=inf", "training.learning_rate is 'inf': input should be a finite number"),
        ("training.rounds=true", "training.rounds is 'true'"),
        ("training.clients_per_round=yes", "'yes' is neither a number of clients"),
        ("data.target=[a]", r"data.target is \['a'\]: it should be text"),
    ],
)
def test_what_is_no_number_and_no_name_is_refused(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(FedhaError, match=message):
        config(tmp_path, "", override)


def test_an_inventorys_clients_are_called_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / inventory.FILE
    end = "2030-01-01T00:00:00Z"
    path.write_text(
        f"days: 90\nplaces: 1e0\ncreated: {end}\nauthority_ends: {end}\nserver_ends: {end}\n"
        f"clients: [{{name: off, partition_id: 000, ends: {end}}}, {{name: no, partition_id: 1, ends: {end}}}]\n"
    )
    assert inventory.read(path).names == ["off", "no"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HessianAlignment("hpg"), r"^recipe 'hpg' is no row of the table; did you mean 'hgp'\?"),
        (lambda: RecipeConfig(name="hpg"), r"^recipe 'hpg' is no row of the table; did you mean 'hgp'\?"),
        (lambda: TrainingConfig(rounds=0, lerning_rate=1), "^rounds is 0: .*unknown key 'lerning_rate'; did you mean"),
        (lambda: DataConfig(held_out=2), "^held_out is 2: input should be less than 1"),
        (lambda: Config(training={"rounds": 0}, recipe="hpg"), "recipe 'hpg' is no row.*training.rounds is 0"),
    ],
)
def test_what_python_gives_is_refused_in_the_configs_words(make, message: str) -> None:
    with pytest.raises(FedhaError, match=message) as caught:
        make()
    assert "pydantic" not in str(caught.value)
