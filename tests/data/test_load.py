"""Laws of `load`: every data set through one door, and no option that is silently not read."""

import numpy
import pytest
import torch

from fedha.config import DataConfig, ModelConfig, parse
from fedha.data import DomainSet, domain_names, load
from fedha.errors import FedhaError
from fedha.runs.resuming import differences


def test_the_default_data_need_no_file():
    domains = load(DataConfig(), seed=0)
    assert isinstance(domains, DomainSet)
    assert domains.classes == 2
    assert "digits" in domains.description


@pytest.mark.parametrize("name", ["colored_mnist", "heart", "arrays", "folder"])
def test_data_sets_of_files_ask_for_a_folder(name):
    with pytest.raises(FedhaError, match=r"data.root is not set"):
        load(DataConfig(name=name), seed=0)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("colored_digits", "imbalance", "clean"),
        ("colored_digits", "download", True),
        ("colored_digits", "sources", ["flip-0.1"]),
        ("colored_mnist", "target", "target"),
        ("heart", "color_flips", [0.3]),
        ("heart", "imbalance_ratio", 0.9),
        ("arrays", "download", True),
        ("arrays", "grayscale_target", True),
        ("arrays", "cache", "somewhere"),
        ("folder", "layout", "channels_last"),
    ],
)
def test_an_option_that_the_data_set_does_not_read_is_refused(tmp_path, name, option, value):
    with pytest.raises(FedhaError, match=f"^data.{option} is .* which {name} does not read.*{name} reads root, "):
        DataConfig(name=name, root=tmp_path, **{option: value})
    with pytest.raises(FedhaError, match=f"^the config: data.{option} is .* which {name} does not read"):
        parse({"data": {"name": name, option: value}})


@pytest.mark.parametrize("name", ["colored_digits", "colored_mnist", "heart", "arrays"])
def test_a_section_is_written_with_its_own_keys_and_an_earlier_ones_others_are_passed_over(name):
    written = parse({"data": {"name": name}}).model_dump(mode="json")["data"]
    assert ("color_flips" in written) == name.startswith("colored")
    assert ("unlabelled" in written) == (name == "arrays")
    everything = {key: field.get_default() for key, field in DataConfig.model_fields.items()}
    assert parse({"data": {**everything, "name": name}}) == parse({"data": written})
    assert differences({"data": {**everything, "name": name}}, parse({"data": written})) == []


@pytest.mark.parametrize("name", ["mlp", "linear", "tests.models_of_others:make"])
def test_a_network_is_written_with_the_keys_that_it_reads(name):
    config = parse({"model": {"name": name}})
    written = config.model_dump(mode="json")["model"]
    assert ("hidden" in written) == (name == "mlp")
    assert ("options" in written) == (":" in name)
    assert "precision" in written
    everything = {key: field.get_default() for key, field in ModelConfig.model_fields.items()}
    everything["features"] = {"cache": None, "precision": "float32", "views": 0}  # as a file has it
    assert parse({"model": {**everything, "name": name}}) == config
    assert differences({"model": {**everything, "name": name}}, config) == []
    assert parse({"model": written}) == config


def test_what_is_loaded_has_been_checked(tmp_path):
    for name, inputs in (("a", numpy.zeros((3, 2))), ("t", numpy.full((3, 2), numpy.nan))):
        numpy.savez(tmp_path / f"{name}.npz", inputs=inputs, labels=numpy.array([0, 1, 0]))
    with pytest.raises(FedhaError, match=r"inputs of domain 't'.*NaN"):
        load(DataConfig(name="arrays", root=tmp_path, target="t"), seed=0)


def test_loading_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    load(DataConfig(), seed=0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"name": "rotated_digits"}, ("0", "15", "30", "45", "60", "75")),
        ({"name": "digits_background"}, ("background0", "background1", "background2", "background3")),
        ({"name": "digits_labels", "shares": [0.2, 0.8]}, ("labels0", "labels1")),
        ({"name": "table", "label": "sick"}, ("east", "north")),
        ({"name": "tests.data_of_others:wards"}, ("ward0", "ward1", "ward2")),
    ],
)
def test_domains_are_told_of_data_that_need_a_target_too(tmp_path, options, names):
    if options["name"] == "table":
        for name in names:
            (tmp_path / f"{name}.csv").write_text("age,sick\n1,no\n2,yes\n")
        options = {**options, "root": str(tmp_path)}
    assert domain_names(parse({"data": options}).data) == names
