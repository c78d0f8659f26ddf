"""What a config may say, what its errors say, and which recipe it means."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fedha.config import (
    Config,
    RecipeConfig,
    from_json,
    load,
    located,
    parse,
    to_json,
    to_yaml,
)
from fedha.config.overrides import apply_override
from fedha.errors import FedhaError
from fedha.recipes import RECIPES, Recipe, Term


def problem(content: object) -> str:
    """The error that a config's content gives."""
    with pytest.raises(FedhaError) as caught:
        parse(content)
    return str(caught.value)


def write(folder: Path, text: str) -> Path:
    path = folder / "experiment.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# --- reading and writing ---


def test_an_empty_file_is_the_default_experiment(tmp_path: Path) -> None:
    assert load(write(tmp_path, "")) == Config()


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[1] / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_config_is_read_and_travels(path: Path, tmp_path: Path) -> None:
    config = load(path)
    assert load(write(tmp_path, to_yaml(config))) == from_json(to_json(config)) == config
    assert all(run.recipe[0].resolve() for run in config.runs())
    assert path.read_text(encoding="utf-8").startswith("# fedha ")


WEIGHTS = st.floats(0, 1e9)
RECIPE_SETTINGS = st.one_of(
    st.builds(RecipeConfig, name=st.sampled_from(sorted(RECIPES)), weight=WEIGHTS, rescale=st.booleans()),
    st.builds(
        RecipeConfig,
        align=st.dictionaries(st.sampled_from(["risk", "gradient"]), WEIGHTS, min_size=1, max_size=2),
        warmup_rounds=st.integers(0, 9),
        warmup_weight=WEIGHTS,
    ),
    st.builds(RecipeConfig, name=st.just("hutchinson"), probes=st.integers(1, 1000), gradient_weight=WEIGHTS),
    st.builds(RecipeConfig, name=st.sampled_from(["fishr", "fediir"]), moving_average=st.floats(0, 0.999)),
)


@given(
    st.text(min_size=1, max_size=8).filter(str.isprintable),
    st.lists(RECIPE_SETTINGS, min_size=1, max_size=3),
    st.lists(st.integers(0, 2**31), min_size=1, max_size=3),
    st.none() | st.sampled_from(["data", "/tmp/ünder"]),
)
def test_a_config_travels_exactly_as_yaml_and_as_json(
    name: str, recipes: list[RecipeConfig], seeds: list[int], root: str | None
) -> None:
    content = {"name": name, "recipe": [one.model_dump() for one in recipes], "seed": seeds, "data": {"root": root}}
    config = parse(content)
    assert parse(yaml.safe_load(to_yaml(config))) == from_json(to_json(config)) == config


def test_recipes_and_seeds_may_be_one_or_many() -> None:
    short = parse({"recipe": "hgp", "seed": 3})
    assert short == parse({"recipe": [{"name": "hgp"}], "seed": [3]})
    many = parse({"recipe": ["erm", {"name": "irm", "weight": 2}], "seed": [1, 2]})
    assert [(run.recipe[0].name, run.seed) for run in many.runs()] == [
        ("erm", [1]),
        ("erm", [2]),
        ("irm", [1]),
        ("irm", [2]),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b", "holds a list; a config is a mapping"),
        ("just words", "holds a single value"),
        ("a: [1", "is not YAML: .*line 1"),
    ],
)
def test_a_file_that_is_no_config_is_named(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(FedhaError, match=rf"experiment\.yaml {message}"):
        load(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FedhaError, match=r"cannot read the config .*nowhere\.yaml: No such file"):
        load(tmp_path / "nowhere.yaml")


# --- errors ---


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"trainng": {}}, "unknown key 'trainng'; did you mean 'training'?"),
        ({"training": {"round": 3}}, "unknown key 'training.round'; did you mean 'rounds'?"),
        (
            {"training": {"local": {"batchsize": 3}}},
            "unknown key 'training.local.batchsize'; did you mean 'batch_size'?",
        ),
        ({"recipe": {"wieght": 1}}, "unknown key 'recipe.wieght'; did you mean 'weight'"),
        ({"recipe": ["erm", {"name": "hgp", "probs": 1}]}, "unknown key 'recipe.probs'; did you mean 'probes'?"),
        ({"data": {"zzz": 1}}, "unknown key 'data.zzz'; known are name, root, download"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(content: dict, message: str) -> None:
    assert message in problem(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"training": {"rounds": 0}}, "training.rounds is 0: input should be greater than or equal to 1"),
        ({"training": {"rounds": "many"}}, "training.rounds is 'many': input should be a valid integer"),
        ({"training": {"mode": "async"}}, "training.mode is 'async': input should be 'synchronous' or 'local'"),
        ({"training": {"learning_rate": -1}}, "training.learning_rate is -1: input should be greater than 0"),
        ({"training": {"momentum": 1}}, "training.momentum is 1: input should be less than 1"),
        ({"data": {"color_flips": [0.1, 1.5]}}, "data.color_flips is 1.5: input should be less than or equal to 1"),
        ({"data": {"color_flips": []}}, "data.color_flips is []"),
        ({"recipe": []}, "recipe is []"),
        ({"seed": -1}, "seed is -1: input should be greater than or equal to 0"),
        ({"recipe": {"align": {"risk": -2}, "name": "mine"}}, "recipe.align.risk is -2"),
        (
            {"recipe": {"name": "fishr", "moving_average": 1.0}},
            "recipe.moving_average is 1.0: input should be less than 1",
        ),
        ({"recipe": "hpg"}, "recipe 'hpg' is no row of the table; did you mean 'hgp'?"),
        ({"recipe": {"name": "mine"}}, "give `align: {statistic: weight}` to make your own"),
        ({"recipe": {"name": "mine", "align": {"hesian": 1}}}, "no statistic 'hesian'; did you mean 'hessian'"),
        ({"training": {"optimizer": "fedadam"}}, "'fedadam' but mode 'synchronous' takes sgd or adam"),
        ({"training": {"mode": "local", "optimizer": "adam"}}, "mode 'local' takes fedavg or fedavgm or fedadam"),
        (
            {"training": {"local": {"measure": "foo"}}},
            "training.local.measure is 'foo'; give all, batch or a whole number from 1",
        ),
        ({"training": {"local": {"measure": 0}}}, "training.local.measure is 0; give all, batch or a whole number"),
        (
            {"data": {"sources": ["a", None]}},
            "data.sources is None; where that is meant as text, write it in quotes",
        ),
        (
            {"data": {"sources": ["a", True]}},
            "data.sources is True; where that is meant as text, write it in quotes",
        ),
        ({"data": {"target": 38}}, "data.target is 38; where that is meant as text, write it in quotes: '38'"),
        ({"data": "foo"}, "data is 'foo': it should be a mapping, such as {key: value}"),
        ({"data": {"root": 3}}, "data.root is 3: it should be text, the path of a file or folder"),
        ({"training": {"local": {"steps": 1, "epochs": 2}}}, "steps is 1 and epochs is 2; give one of them"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_right(content: dict, message: str) -> None:
    assert message in problem(content)


def test_every_problem_is_named_at_once() -> None:
    text = problem({"nam": "x", "training": {"rounds": 0}, "seed": "one"})
    assert all(one in text for one in ("unknown key 'nam'", "training.rounds is 0", "seed is 'one'"))


def test_a_config_does_not_change_after_reading() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().training.rounds = 3


# --- overrides ---


def test_overrides_replace_values_and_make_sections(tmp_path: Path) -> None:
    path = write(tmp_path, "training: {rounds: 5, schedule: cosine}\nseed: [0, 1]")
    config = load(path, ["training.rounds=7", "seed=4", "recipe=[erm, hgp]", "model.hidden=[3]", "data.target=null"])
    assert (config.training.rounds, config.training.schedule, config.seed) == (7, "cosine", [4])
    assert [one.name for one in config.recipe] == ["erm", "hgp"]
    assert config.model.hidden == [3]
    later = load(path, ["training.rounds=8", "recipe={name: irm, weight: 3}", "name=a=b"])
    assert (later.training.rounds, later.recipe[0].weight, later.name) == (8, 3, "a=b")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.rounds", r"'training\.rounds' is no override; write key\.key=value"),
        ("=3", "'=3' is no override"),
        ("seed=[1", r"the value of 'seed=\[1' is not YAML"),
        ("seed.first=1", r"goes through 'seed', which is not a mapping but \[0, 1\]"),
    ],
)
def test_a_wrong_override_is_named(override: str, message: str) -> None:
    with pytest.raises(FedhaError, match=message):
        apply_override({"seed": [0, 1]}, override)


@pytest.mark.parametrize(
    "overrides",
    [
        ("seed=0", "seed=1"),
        ("training.rounds=3", "training={mode: local}"),
        ("training={rounds: 3}", "training.rounds=4"),
        ("training={local: {steps: 3}}", "training.local.steps=3"),
        ("training.local.steps=3", "training.local={batch_size: 2}"),
    ],
)
def test_changes_of_which_one_would_undo_the_other_are_refused_with_both(
    tmp_path: Path, overrides: tuple[str, str]
) -> None:
    first, second = map(re.escape, map(repr, overrides))
    with pytest.raises(FedhaError, match=f"^{first} and {second} set the same; keep one"):
        load(write(tmp_path, ""), ["name=x", *overrides])


def test_of_a_section_that_is_given_as_a_whole_another_key_may_be_set(tmp_path: Path) -> None:
    config = load(write(tmp_path, ""), ["training={mode: local}", "training.rounds=4", "training.local={steps: 2}"])
    assert (config.training.mode, config.training.rounds, config.training.local.steps) == ("local", 4, 2)


def test_an_unknown_key_in_an_override_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(FedhaError, match=r"'training\.ronds'; did you mean 'rounds'"):
        load(write(tmp_path, ""), ["training.ronds=3"])


# --- the recipe that is meant ---


@pytest.mark.parametrize("name", RECIPES)
def test_a_rows_name_alone_is_the_row(name: str) -> None:
    assert RecipeConfig(name=name).resolve() == RECIPES[name]


def weights(**settings: object) -> dict[str, float]:
    return {term.statistic: term.weight for term in RecipeConfig(**settings).resolve().terms}


def test_gradient_and_hessian_weight_go_to_terms_of_first_and_second_order() -> None:
    assert weights(name="hgp", gradient_weight=0.5) == {"gradient": 0.5, "gradient_hessian_product": 1.0}
    assert weights(name="hgp", hessian_weight=3) == {"gradient": 1.0, "gradient_hessian_product": 3.0}
    assert weights(name="hutchinson_expected", gradient_weight=0, hessian_weight=2) == {
        "gradient": 0.0,
        "hessian_diagonal": 2.0,
        "off_diagonal_energy": 2.0,
    }


def test_schedule_probes_and_step_size_are_those_of_the_config() -> None:
    settings = {"weight": 9.0, "warmup_rounds": 4, "warmup_weight": 0.5, "rescale": True, "probes": 7}
    settings["reset_optimizer"] = True
    recipe = RecipeConfig(name="hutchinson", **settings).resolve()
    assert {key: getattr(recipe, key) for key in settings} == settings
    assert [recipe.scheduled_weight(number) for number in (1, 4, 5)] == [0.5, 0.5, 9.0]
    assert RecipeConfig(name="groupdro", step_size=2.0).resolve().step_size == 2.0


def test_align_makes_a_recipe_of_ones_own() -> None:
    recipe = RecipeConfig(name="mine", align={"gradient": 2.0, "risk": 0.5}).resolve()
    assert recipe == Recipe("mine", (Term("gradient", 2.0), Term("risk", 0.5)), source="this config")


def test_align_changes_a_rows_weights_but_not_how_it_compares() -> None:
    (term,) = RecipeConfig(name="fishr", align={"gradient_variance": 782.0}).resolve().terms
    assert term == Term("gradient_variance", 782.0, distance="mean_squared", client_average=0.95)
    (term,) = RecipeConfig(name="irm", align={"scale_gradient": 3.0}).resolve().terms
    assert term == Term("scale_gradient", 3.0, target="zero")


def test_moving_average_reaches_the_rows_that_have_one() -> None:
    assert [t.client_average for t in RecipeConfig(name="fishr", moving_average=0.5).resolve().terms] == [0.5]
    assert [t.reference_average for t in RecipeConfig(name="fediir", moving_average=0.0).resolve().terms] == [0.0]
    assert [t.client_average for t in RecipeConfig(name="fediir", moving_average=0.5).resolve().terms] == [0.0]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"name": "a\x85b"}, r"name: 'a\\x85b' has characters that cannot be printed"),
        ({"recipe": {"name": "hgp", "align": {}}}, "align is empty"),
        ({"recipe": {"name": "hgp", "align": {"gradient": 1}, "hessian_weight": 2}}, "align gives every weight"),
        ({"recipe": {"name": "irm", "moving_average": 0.9}}, "recipe 'irm' does not use moving_average"),
        ({"recipe": {"name": "erm", "gradient_weight": 1, "probes": 3}}, "does not use gradient_weight or probes"),
        ({"recipe": {"name": "hgp", "step_size": 0.1}}, "does not use step_size"),
        ({"recipe": "fish", "training": {"averaging": "examples"}}, "recipe 'fish' takes pairs of domains alike"),
    ],
)
def test_a_setting_that_contradicts_or_would_change_nothing_is_an_error(content: dict[str, Any], sentence: str) -> None:
    with pytest.raises(FedhaError, match=sentence):
        parse(content)


PRIVATE = {"protect": "examples", "noise_multiplier": 3.0}
UNCOVERED: dict[str, tuple[dict[str, Any], str]] = {
    "no noise": ({"privacy": {"protect": "examples"}}, "give noise_multiplier: `fedha privacy plan CONFIG`"),
    "hgp": ({"recipe": "hgp"}, "align pooled_gradient_hessian_product"),
    "hutchinson": ({"recipe": "hutchinson"}, "align hessian_diagonal, their expectation, instead"),
    "hutchinson in expectation": ({"recipe": "hutchinson_expected"}, "align hessian_diagonal instead"),
    "cma": ({"recipe": "cma"}, "align hessian_diagonal instead"),
    "piggyback": ({"federation": {"schedule": "piggyback"}}, "set federation.schedule to exact"),
    "folds": ({"evaluation": {"leave_one_domain_out": True}}, "set evaluation.leave_one_domain_out to false"),
    "head": ({"model": {"head_hidden": [4]}}, "must be linear"),
    "synchronous poisson": ({"privacy": {**PRIVATE, "sampling": "poisson"}}, "set privacy.sampling to whole"),
    "local whole": ({"training": {"mode": "local", "local": {"steps": 2, "batch_size": 9}}}, "shuffled with a number"),
    "local poisson": (
        {"training": {"mode": "local", "local": {"steps": 2}}, "privacy": {**PRIVATE, "sampling": "poisson"}},
        "whole goes with null",
    ),
    "clients by domain": ({"privacy": {**PRIVATE, "protect": "clients"}}, "set it to clients"),
    "clients by risk": (
        {"recipe": "groupdro", "training": {"averaging": "clients"}, "privacy": {**PRIVATE, "protect": "clients"}},
        "weighs clients by their risks",
    ),
    "clients in secret": (
        {
            "training": {"averaging": "clients"},
            "privacy": {**PRIVATE, "protect": "clients", "secure_aggregation": True},
        },
        "cannot clip a client's answer that it never sees",
    ),
    "a scale of nothing": ({"privacy": {**PRIVATE, "scales": {"median": 1.0}}}, "privacy.scales"),
}


@pytest.mark.parametrize("name", UNCOVERED)
def test_what_no_account_covers_is_refused_before_a_run(name: str) -> None:
    changes, message = UNCOVERED[name]
    with pytest.raises(FedhaError, match=re.escape(message)):
        parse({"recipe": "iga", "privacy": PRIVATE, **changes})


def test_a_head_that_is_not_linear_is_covered_where_nothing_of_it_is_measured() -> None:
    assert parse({"recipe": "erm", "model": {"head_hidden": [4]}, "privacy": PRIVATE}).privacy.protect == "examples"


def test_scales_are_those_of_the_moments_that_are_measured() -> None:
    scaled = parse({"recipe": "iga", "privacy": {**PRIVATE, "scales": {"hessian_diagonal": 0.1}}})
    assert scaled.privacy.scales == {"hessian_diagonal": 0.1}
    with pytest.raises(FedhaError, match=r"no moment 'hessian_diagonl'; did you mean 'hessian_diagonal'"):
        parse({"recipe": "iga", "privacy": {**PRIVATE, "scales": {"hessian_diagonl": 0.1}}})


@pytest.mark.parametrize("key", ["data.cache", "model.features.cache"])
@pytest.mark.parametrize("place", ["pics", "pics/cache"])
def test_a_cache_within_the_datas_folder_is_refused(key: str, place: str, tmp_path: Path) -> None:
    cache = str(tmp_path / place)
    content = {"data": {"name": "folder", "root": str(tmp_path / "pics"), "target": "a"}, "model": {"name": "pkg:make"}}
    if key == "data.cache":
        content["data"]["cache"] = cache
    else:
        content["model"]["features"] = {"cache": cache}  # type: ignore[assignment]
    with pytest.raises(FedhaError, match=f"{key} is"):
        located(parse(content))
