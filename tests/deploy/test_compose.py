"""The compose files: who may reach whom, who sees what, and what no container may ever do."""

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from flwr.common.config import parse_config_args
from flwr.supercore.cli.flower_superexec import _parse_args
from flwr.superlink.cli.flower_superlink import _parse_args_run_superlink
from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode
from hypothesis import given, settings
from hypothesis import strategies as st

from fedha.deploy import compose
from fedha.deploy.inventory import Client
from fedha.deploy.names import DEFAULT_CLIENTS
from tests.deploy.federations import CLIENTS, MADE, make

ROOT = Path(__file__).resolve().parents[2]
SERVER = {"superlink", "serverapp", "proxy", "registrar", "operator"}
SITES = {f"{name}-{part}" for name in CLIENTS for part in ("node", "app")}
ONE_SHOT = {"registrar", "operator"}

Services = dict[str, dict[str, Any]]


def clients(names: tuple[str, ...] = CLIENTS) -> list[Client]:
    return [Client(name=name, partition_id=place, ends=MADE) for place, name in enumerate(names)]


FILES = {
    "all in one": compose.all_in_one(clients()),
    "checkout": compose.all_in_one(clients(), "./deployment", "./configs", build=True),
    "server": compose.server(),
    "site": compose.site(clients()[0]),
}


@pytest.fixture(params=FILES)
def content(request: pytest.FixtureRequest) -> dict[str, Any]:
    return parsed(FILES[request.param])


@functools.cache
def parsed(text: str) -> dict[str, Any]:
    return dict(yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def reachable(content: dict[str, Any], service: str) -> set[str]:
    """The services that share a network with this one."""
    services: Services = content["services"]
    mine = set(services[service]["networks"])
    return {other for other, found in services.items() if other != service and mine & set(found["networks"])}


def mounts(service: dict[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """Each volume's source, target, and whether it is read-only."""
    for volume in service.get("volumes", []):
        source, target, mode = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume).split(":")
        assert mode in ("z", "ro,z"), volume  # z: a label under which SELinux lets containers in
        yield source, target, mode == "ro,z"


def test_the_checkouts_file_is_the_templates() -> None:
    assert CLIENTS == DEFAULT_CLIENTS
    assert (ROOT / "docker-compose.yml").read_text(encoding="utf-8") == FILES["checkout"]


def test_each_file_has_its_services() -> None:
    found = {name: set(parsed(text)["services"]) for name, text in FILES.items()}
    assert found == {
        "all in one": SERVER | SITES,
        "checkout": SERVER | SITES,
        "server": SERVER,
        "site": {"north-way", "north-node", "north-app"},
    }


# --- what no container may do ---


def test_every_service_is_a_user_without_rights_on_a_file_system_that_it_cannot_change(content: dict[str, Any]) -> None:
    for name, service in content["services"].items():
        assert re.fullmatch(r"\$\{FEDHA_UID:\?[^}]+\}:\$\{FEDHA_GID:\?[^}]+\}", service["user"]), name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not {"privileged", "cap_add", "devices", "network_mode", "pid", "ipc"} & set(service), name
        assert service["userns_mode"] == "${FEDHA_USERNS:-}", name


def test_every_service_has_limits(content: dict[str, Any]) -> None:
    for name, service in content["services"].items():
        assert service["pids_limit"] == 256, name
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}, name
        assert service["logging"]["options"] == {"max-size": "10m", "max-file": "3"}, name
        assert service["stop_grace_period"] == "30s", name
        assert all(place.startswith("/tmp:size=") for place in service["tmpfs"]), name


def test_what_should_run_for_ever_is_started_again_and_watched(content: dict[str, Any]) -> None:
    for name, service in content["services"].items():
        wanted = {"registrar": "on-failure", "operator": "no"}.get(name, "unless-stopped")
        assert service["restart"] == wanted, name
        assert ("healthcheck" in service) == (name not in ONE_SHOT), name


def test_nothing_waits_for_compose_to_say_that_something_else_is_there(content: dict[str, Any]) -> None:
    """Some engines do not, and no one does on another machine: every process waits by itself, or is started again."""
    assert not any("depends_on" in service for service in content["services"].values())


def test_secrets_are_files_and_never_in_the_environment(content: dict[str, Any]) -> None:
    for name, service in content["services"].items():
        for value in service.get("environment", {}).values():
            assert re.fullmatch(r"\*|/\w+|\$\{FEDHA_(APP|LIMITS|MINIMUM|SECURE_ONLY|PROXY):-\}", value), name
        for word in service.get("command", []):
            _, _, value = word.partition("=")
            assert "secret" not in value or value.startswith("/run/secrets/"), name
        assert all(one["source"] in content["secrets"] for one in service.get("secrets", [])), name
    assert all(set(one) == {"file", "x-podman.relabel"} for one in content["secrets"].values())


def test_each_service_has_the_secrets_that_it_needs_and_no_other(content: dict[str, Any]) -> None:
    needed = {
        "superlink": {"ca.crt", "server.crt", "server.key", "superexec.secret"},
        "serverapp": {"ca.crt", "superexec.secret"},
        "proxy": {"ca.crt", "server.crt", "server.key"},
        "registrar": set(),
        "operator": set(),
        "way": {"ca.crt"},
        "node": {"ca.crt", "client.key", "node.crt", "node.key", "superexec.secret"},
        "app": {"ca.crt", "superexec.secret", "signing.key", "roster.json", "accepted.txt"},
    }
    for name, service in content["services"].items():
        assert {one["target"] for one in service.get("secrets", [])} == needed[name.rpartition("-")[2]], name
        owners = {one["source"].rpartition("-")[0].split("-")[0] for one in service.get("secrets", [])} - {""}
        assert owners <= {name.rpartition("-")[0]}, name


# --- who reaches whom ---


@pytest.mark.parametrize("file", ["all in one", "checkout", "server"])
def test_the_superlink_is_reached_by_the_servers_own_services_alone(file: str) -> None:
    content = parsed(FILES[file])
    assert reachable(content, "superlink") == SERVER - {"superlink"}
    assert content["networks"]["control"] == {"internal": True}
    for name, service in content["services"].items():
        expected = {"proxy": ["control", "sites"]}.get(name, ["control"])
        assert name in SITES or service["networks"] == expected, name


@pytest.mark.parametrize("file", ["all in one", "checkout", "site"])
def test_an_app_reaches_its_node_and_nothing_else(file: str) -> None:
    content = parsed(FILES[file])
    for name in set(content["services"]) & SITES:
        if name.endswith("-app"):
            assert reachable(content, name) == {name.replace("-app", "-node")}
            (network,) = content["services"][name]["networks"]
            assert content["networks"][network] == {"internal": True}


def test_a_sites_node_reaches_its_way_out_and_its_app_and_has_no_other_network() -> None:
    content = parsed(FILES["site"])
    services, networks = content["services"], content["networks"]
    assert reachable(content, "north-node") == {"north-way", "north-app"}
    assert all(networks[name] == {"internal": True} for name in services["north-node"]["networks"])
    assert set(services["north-way"]["networks"]) == {"outside", "north-way"}
    assert services["north-way"]["networks"]["north-way"] == {"aliases": ["proxy"]}
    assert "--superlink=proxy:8443" in services["north-node"]["command"]
    (goal,) = services["north-way"]["command"][3:]
    assert goal.startswith("${FEDHA_SERVER:?")
    assert [name for name, service in services.items() if "outside" in service["networks"]] == ["north-way"]


def test_the_proxys_port_is_all_that_is_published_and_only_where_sites_are_elsewhere() -> None:
    published = {
        (file, name): service["ports"]
        for file, text in FILES.items()
        for name, service in parsed(text)["services"].items()
        if "ports" in service
    }
    assert published == {("server", "proxy"): ["${FEDHA_PORT:-8443}:8443"]}


# --- who sees what ---


def test_data_are_in_the_app_alone_and_cannot_be_changed(content: dict[str, Any]) -> None:
    for name, service in content["services"].items():
        seen = {target: read_only for source, target, read_only in mounts(service) if source.endswith("/data")}
        assert seen == ({"/data": True} if name.endswith("-app") else {}), name


def test_what_a_container_may_write_is_its_own(content: dict[str, Any]) -> None:
    writable = {"superlink": {"/state"}, "serverapp": {"/runs"}, "operator": {"/runs"}}
    for name, service in content["services"].items():
        wanted = {"/cache"} if name.endswith("-app") else writable.get(name, set())
        assert {target for _, target, read_only in mounts(service) if not read_only} == wanted, name


def test_init_makes_every_file_that_is_mounted_and_the_authoritys_key_is_not_one(tmp_path: Path) -> None:
    make(tmp_path / "deployment")
    for place in (tmp_path / "deployment", tmp_path / "deployment/server", tmp_path / "deployment/clients/north"):
        content = parsed((place / compose.FILE).read_text())
        sources = [secret["file"] for secret in content["secrets"].values()]
        sources += [source for service in content["services"].values() for source, _, _ in mounts(service)]
        for source in sources:
            assert (place / source).exists(), source
            assert "ca" not in Path(source).parts, source
    checkout = parsed(FILES["checkout"])
    for source in [secret["file"] for secret in checkout["secrets"].values()]:
        assert (tmp_path / source).exists(), source


def test_every_setting_has_a_default_or_is_in_the_env_file(tmp_path: Path) -> None:
    make(tmp_path / "deployment")
    for place in (tmp_path / "deployment", tmp_path / "deployment/server", tmp_path / "deployment/clients/north"):
        text = (place / compose.FILE).read_text()
        required = set(re.findall(r"\$\{(\w+):\?", text))
        given = {line.partition("=")[0] for line in (place / ".env").read_text().splitlines()}
        assert required <= given
        assert set(re.findall(r"\$\{?(\w+)", text)) - required == set(re.findall(r"\$\{(\w+):?-", text))


# --- commands ---


def test_flower_takes_every_command() -> None:
    parsers = {
        "fedha.deploy.superlink": _parse_args_run_superlink(),
        "fedha.deploy.node": _parse_args_run_supernode(),
        "fedha.deploy.executor": _parse_args(),
        "fedha.deploy.launcher": _parse_args(),
    }
    called = [one["command"] for one in parsed(FILES["all in one"])["services"].values() if "command" in one]
    commands = [words[2:] if words[:2] == ["python", "-m"] else words for words in called]
    flowers = [words for words in commands if words[0] in parsers]
    assert len(flowers) == 2 + 2 * len(CLIENTS)
    for command, *options in flowers:
        theirs = [word for word in options if not word.startswith("--connected=")]
        parsers[command].parse_args(theirs)  # exits where it does not know one


def test_a_node_is_healthy_by_what_it_keeps_itself_not_by_who_answers_at_the_servers_address() -> None:
    services = parsed(FILES["site"])["services"]
    (kept,) = [word for word in services["north-node"]["command"] if word.startswith("--connected=")]
    command = services["north-node"]["healthcheck"]["test"]
    assert command[1:] == ["python", "-m", "fedha.deploy.healthy", kept, "https://localhost:9094/health"]
    assert kept.removeprefix("--connected=").startswith("/tmp/")  # all else is read-only


_LABELS = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)


@settings(max_examples=30)
@given(st.lists(_LABELS, min_size=1, max_size=4, unique=True))
def test_any_names_give_files_whose_parts_stay_apart(names: list[str]) -> None:
    content = parsed(compose.all_in_one(clients(tuple(names))))
    assert len(content["services"]) == len(SERVER) + 2 * len(names)
    assert len(content["secrets"]) == 4 + 8 * len(names)
    assert len(content["networks"]) == 2 + len(names)
    for place, name in enumerate(names):
        assert reachable(content, f"{name}-app") == {f"{name}-node"}
        (option,) = [
            word for word in content["services"][f"{name}-node"]["command"] if word.startswith("--node-config=")
        ]
        told = parse_config_args([option.removeprefix("--node-config=")])
        assert told == {"partition-id": place, "name": name}
        parts = {f"{name}-{part}" for part in ("way", "node", "app")}
        assert parsed(compose.site(clients((name,))[0]))["services"].keys() == parts
