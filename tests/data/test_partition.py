"""Who holds what: the partitions, each against its definition written again, on every way to bring data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import fedha
from fedha.cli.commands import app
from fedha.config import DataConfig, parse
from fedha.data.domain import Domain, DomainSet, Examples
from fedha.data.holdings import picture
from fedha.data.partition import Share, client_count, client_domains, client_names, shares
from fedha.errors import FedhaError
from fedha.models import SplitModel

SIZES = (40, 25, 10)


def domain(name: str, size: int, **known: Any) -> Domain:
    draws = torch.Generator().manual_seed(size)
    labels = torch.randint(0, 3, (size + 8,), generator=draws)
    inputs = torch.arange(size + 8).float()[:, None] + 1000 * size
    columns = {key: numpy.array(value) for key, value in known.items()}
    whole = Examples(inputs, labels, metadata=columns)
    return Domain(name, whole.select(slice(0, size)), whole.select(slice(size, size + 8)))


SOURCES = tuple(domain(name, size) for name, size in zip("abc", SIZES, strict=True))
SET = DomainSet(SOURCES, (), 3, "")


def data(**partition: Any) -> DataConfig:
    return DataConfig(partition=partition)


def held(config: DataConfig, seed: int = 0, sources: Sequence[Domain] = SOURCES) -> list[Domain]:
    return client_domains(DomainSet(tuple(sources), (), 3, ""), config, seed)


def counts(clients: Sequence[Domain]) -> numpy.ndarray:
    """Training examples by client and source domain, told by their inputs."""
    origin = [one.train.inputs[:, 0] // 1000 for one in clients]
    return numpy.array([[int((one == size).sum()) for size in SIZES] for one in origin])


# --- lambda ---


@pytest.mark.parametrize("mixing", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("clients", [3, 7, 20])
def test_lambda_gives_each_client_what_the_benchmark_does(clients: int, mixing: float) -> None:
    mains = [1, 1, 1]
    while sum(mains) < clients:
        mains[max(range(3), key=lambda place: SIZES[place] / mains[place])] += 1
    main = [place for place, count in enumerate(mains) for _ in range(count)]
    wanted = numpy.array(
        [
            [
                mixing * size / clients + (1 - mixing) * (size / mains[place] if place == own else 0)
                for place, size in enumerate(SIZES)
            ]
            for own in main
        ]
    )
    made = held(data(name="lambda", clients=clients, mixing=mixing))
    found = counts(made)
    assert (found.sum(0) == SIZES).all()
    assert (abs(found - wanted) < 1).all()
    assert [one.name for one in made] == [SOURCES[place].name for place in main]
    if mixing == 0:
        assert ((found > 0).sum(1) == 1).all()


def test_lambda_keeps_what_is_held_out_with_its_own_domain() -> None:
    made = held(data(name="lambda", clients=7, mixing=0.7))
    for one in SOURCES:
        rows = torch.cat([part.held_out.inputs for part in made if part.name == one.name])
        assert torch.equal(rows.sort(0).values, one.held_out.inputs.sort(0).values)


def test_fewer_clients_than_domains_are_packed_the_largest_first() -> None:
    made = held(data(name="lambda", clients=2))
    assert [one.name for one in made] == ["a", "b + c"]
    assert counts(made).tolist() == [[40, 0, 0], [0, 25, 10]]
    assert [len(one.held_out) for one in made] == [8, 16]
    alike = held(data(name="lambda", clients=2, mixing=1))
    assert counts(alike).tolist() == [[20, 13, 5], [20, 12, 5]]


def test_a_seed_decides_who_has_which() -> None:
    config = data(name="lambda", clients=4, mixing=0.5)
    one, again, other = held(config), held(config), held(config, seed=1)
    assert all(torch.equal(a.train.inputs, b.train.inputs) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one[0].train.inputs, other[0].train.inputs)
    assert (counts(one) == counts(other)).all()


# --- dirichlet ---


def test_dirichlet_skews_labels_within_each_domain() -> None:
    sources = tuple(domain(name, 3000 + place) for place, name in enumerate("ab"))
    made = {}
    for alpha in (0.05, 100.0):
        config = DataConfig(clients_per_domain=4, partition={"name": "dirichlet", "alpha": alpha})
        made[alpha] = held(config, sources=sources)
        assert [one.client_name for one in made[alpha]] == [f"{name}/{k}" for name in "ab" for k in range(4)]
        for one in sources:  # everything once, with its own domain
            rows = torch.cat([part.train.inputs for part in made[alpha] if part.name == one.name])
            assert torch.equal(rows.sort(0).values, one.train.inputs.sort(0).values)

    def largest(clients: Sequence[Domain]) -> float:
        """How much of a client is its commonest class, on average."""
        return float(numpy.mean([one.train.labels.bincount(minlength=3).max() / len(one.train) for one in clients]))

    assert largest(made[0.05]) > 0.8
    assert largest(made[100.0]) < 0.45
    spread = [one.train.labels.bincount(minlength=3)[0].item() for one in made[100.0][:4]]
    total = (sources[0].train.labels == 0).sum().item()
    assert all(abs(count / total - 0.25) < 0.12 for count in spread)


def test_dirichlet_parts_have_the_moments_of_the_distribution() -> None:
    alpha, clients, found = 0.7, 3, []
    (source,) = sources = (domain("a", 600),)
    first = int((source.train.labels == 0).sum())
    for seed in range(300):
        config = DataConfig(clients_per_domain=clients, partition={"name": "dirichlet", "alpha": alpha})
        found.append(int((held(config, seed, sources)[0].train.labels == 0).sum()) / first)
    variance = (1 / clients) * (1 - 1 / clients) / (clients * alpha + 1)
    assert numpy.mean(found) == pytest.approx(1 / clients, abs=4 * (variance / 300) ** 0.5)
    assert numpy.var(found) == pytest.approx(variance, rel=0.25)


def test_every_client_has_the_least_that_is_asked_for() -> None:
    config = DataConfig(clients_per_domain=3, partition={"name": "dirichlet", "alpha": 0.3, "least": 3})
    assert min(len(one.train) for seed in range(20) for one in held(config, seed, SOURCES[:2])) >= 3
    hopeless = DataConfig(clients_per_domain=3, partition={"name": "dirichlet", "alpha": 0.01, "least": 14})
    with pytest.raises(FedhaError, match=r"alpha 0\.01 left a client of domain 'a', .* fewer than 14 in 1000 draws"):
        held(hopeless)


# --- a column ---


def test_natural_clients_are_a_columns_values_within_each_domain() -> None:
    cameras = ["x"] * 5 + ["y"] * 3
    one = domain("a", 8, camera=[*cameras, *"xyzzyxyz"])
    two = domain("b", 9, camera=["y"] * 9 + ["y"] * 8)
    made = held(data(name="column", column="camera"), sources=(one, two))
    assert [part.client_name for part in made] == ["a/x", "a/y", "b/y"]
    assert [len(part.train) for part in made] == [5, 3, 9]
    assert [len(part.held_out) for part in made] == [5, 3, 8]  # z, which nobody trains on, is evaluated by the first
    assert made[0].notes == ("of column camera, z is held out alone, and evaluated by client a/x",)
    with pytest.raises(FedhaError, match="by column 'kamera', but of the examples of domain 'a' is known only camera"):
        held(data(name="column", column="kamera"), sources=(one, two))


def test_a_manifests_column_makes_clients(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    lines = ["path,domain,label,hospital,split"]
    for place in range(24):
        image.new("L", (4, 4), place * 10).save(tmp_path / f"{place}.png")
        side = "test" if place % 6 == 5 else "train"
        name = "abc"[place % 2 if place < 20 else 2]
        lines.append(f"{place}.png,{name},{'cd'[place // 2 % 2]},{'ns'[place // 4 % 2]},{side}")
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    section = {
        "name": "folder",
        "manifest": str(tmp_path / "list.csv"),
        "root": str(tmp_path),
        "size": 4,
        "target": "c",
    }
    config = parse({"data": {**section, "partition": {"name": "column", "column": "hospital"}}})
    domains = fedha.data.load(config.data, 0)
    assert client_names(domains, config.data, 0) == ["a", "a", "b", "b"]
    assert not [note for note in domains.notes if "not read" in note]
    assert {one.client_name for one in client_domains(domains, config.data, 0)} == {"a/n", "a/s", "b/n", "b/s"}


def test_a_tables_column_makes_clients_and_is_no_feature(tmp_path: Path) -> None:
    for name, places in (("a", "nnsw"), ("b", "ns"), ("c", "n")):
        rows = [f"{row},{row % 2},{place}" for row, place in enumerate(places * 4)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["age,sick,hospital", *rows]) + "\n")
    section = {"name": "table", "root": str(tmp_path), "label": "sick", "target": "c", "held_out": 0.25}
    config = parse({"data": {**section, "partition": {"name": "column", "column": "hospital"}}})
    domains = fedha.data.load(config.data, 0)
    assert domains.input_shape == (1,)
    assert [one.client_name for one in client_domains(domains, config.data, 0)] == ["a/n", "a/s", "a/w", "b/n", "b/s"]


def test_an_archives_array_makes_clients(tmp_path: Path) -> None:
    for name in "ab":
        inputs = numpy.arange(24, dtype=numpy.float32).reshape(12, 2)
        labels, cameras = numpy.arange(12) % 2, numpy.array(["x", "y", "x"] * 4)
        numpy.savez(tmp_path / f"{name}.npz", inputs=inputs, labels=labels, camera=cameras)
    section = {"name": "arrays", "root": str(tmp_path), "target": "b"}
    config = parse({"data": {**section, "partition": {"name": "column", "column": "camera"}}})
    domains = fedha.data.load(config.data, 0)
    assert [one.client_name for one in client_domains(domains, config.data, 0)] == ["a/x", "a/y"]


def test_groups_are_not_divided_among_clients() -> None:
    grouped = Domain("a", Examples.of(torch.zeros(6, 1), [0, 1] * 3, [1, 1, 2, 2, 3, 3]), SOURCES[0].held_out)
    for partition in ({"name": "lambda", "clients": 2}, {"name": "dirichlet", "alpha": 1.0}):
        with pytest.raises(FedhaError, match=r"would divide the groups of a among clients; set data\.split to"):
            held(data(**partition), sources=(grouped,))
    nothing = Domain("a", grouped.train, grouped.train.select(slice(0, 0)))
    assert len(held(data(name="column", column="group"), sources=(nothing,))) == 3


# --- somebody's own, and what is none ---


def alternating(sources: Sequence[Domain], parts: int = 2) -> list[Share]:
    """Every parts-th example of all domains."""
    return [
        Share(
            "all",
            {place: torch.arange(len(one.train))[part::parts] for place, one in enumerate(sources)},
            {place: torch.arange(len(one.held_out))[part::parts] for place, one in enumerate(sources)},
            part,
        )
        for part in range(parts)
    ]


def forgetful(sources: Sequence[Domain]) -> list[Share]:
    return [Share("a", {0: torch.arange(len(sources[0].train) - 1)}, {0: torch.arange(len(sources[0].held_out))})]


def test_a_function_of_ones_own_is_a_partition() -> None:
    config = data(name="tests.data.test_partition:alternating", parts="3")
    made = held(config)
    assert [one.client_name for one in made] == ["all/0", "all/1", "all/2"]
    assert counts(made).sum() == sum(SIZES)
    assert client_count(SET, config, 0) == 3
    with pytest.raises(FedhaError, match="does not give every train example of domain 'a' to one client"):
        held(data(name="tests.data.test_partition:forgetful"))


@pytest.mark.parametrize(
    ("partition", "said"),
    [
        ({"name": "lamda"}, "is no partition; did you mean 'lambda'?"),
        ({"name": "lambda"}, "missing a required argument: 'clients'"),
        ({"name": "lambda", "clients": 0}, "clients is 0"),
        ({"name": "lambda", "clients": 3, "mixing": 1.5}, r"mixing is 1\.5"),
        ({"name": "lambda", "clients": 3, "mixin": 1}, "did you mean 'mixing'"),
        ({"name": "lambda", "clients": 500}, "without a training example; ask for fewer clients"),
        ({"name": "dirichlet", "alpha": 0}, "alpha is 0"),
        ({"name": "column"}, "missing a required argument: 'column'"),
    ],
)
def test_what_is_no_partition_is_said(partition: dict[str, Any], said: str) -> None:
    with pytest.raises(FedhaError, match=said):
        held(DataConfig(partition=partition))


def test_clients_per_domain_is_refused_where_nobody_reads_it() -> None:
    with pytest.raises(FedhaError, match="clients_per_domain is 2, which partition 'lambda' does not read"):
        held(DataConfig(clients_per_domain=2, partition={"name": "lambda", "clients": 4}))


def test_without_a_partition_shares_are_what_clients_hold() -> None:
    config = DataConfig(clients_per_domain=3)
    for share, part in zip(shares(SOURCES, config, 5), held(config, 5), strict=True):
        (place,) = share.train
        assert share.client_name == part.client_name
        assert torch.equal(SOURCES[place].train.inputs[share.train[place]], part.train.inputs)


def test_domains_of_a_program_are_divided_too(tmp_path: Path) -> None:
    cameras = {"camera": ["x", "y"] * 24}
    domains = [domain("a", 40, **cameras), domain("b", 40, **cameras), domain("c", 25)]
    network = SplitModel(nn.Identity(), nn.Linear(1, 3))
    for partition, clients in (
        ({"name": "lambda", "clients": 5, "mixing": 0.5}, 5),
        ({"name": "column", "column": "camera"}, 4),
    ):
        told = {"target": "c", "engine": "inline", "training": {"rounds": 1}}
        run = fedha.simulate(domains, network, "erm", partition=partition, out=tmp_path / partition["name"], **told)
        assert run.records[0]["clients"] == clients


# --- data check draws it ---


def test_data_check_tells_and_draws_who_has_what(tmp_path: Path) -> None:
    override = "data.partition={name: lambda, clients: 5, mixing: 0.1}"
    found = CliRunner().invoke(app, ["data", "check", "quickstart", override, "--out", str(tmp_path / "page")])
    assert found.exit_code == 0, found.output
    assert "5 clients, and what they train on" in found.output
    assert "flip-0.2/0" in found.output
    page = (tmp_path / "page" / "index.html").read_text()
    assert page.count("<svg") == 1
    assert "flip-0.1/1, class 0: " in page
    plain = CliRunner().invoke(app, ["data", "check", "quickstart", "--format", "json"])
    assert '"clients": [' in plain.output
    assert "and what they train on" not in CliRunner().invoke(app, ["data", "check", "quickstart"]).output


def test_a_pictures_discs_have_areas_of_their_counts() -> None:
    from fedha.data.examine import Holding

    drawn = picture([Holding("a/0", {"a": [4, 0], "b": [12, 1]}, 0)], ["a", "b"])
    radii = [float(one.split('"')[0]) for one in drawn.split(' r="')[1:4]]
    assert radii[0] ** 2 / radii[1] ** 2 == pytest.approx(16 / 4, rel=1e-2)  # all of class 0, and a's within
    assert radii[0] ** 2 / radii[2] ** 2 == pytest.approx(16, rel=1e-2)
