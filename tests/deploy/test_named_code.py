"""What an operator's config names at a site: fedha's own code, or what the site accepted; nothing else is imported."""

import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fedha import permitted, plugins
from fedha.config import parse, to_json
from fedha.deploy import accepted, apps
from fedha.engine.inline import InlineGrid
from fedha.errors import FedhaError
from fedha.flower.failure import find_failure
from fedha.flower.guarded import errors_by_kind
from fedha.flower.handshake import greeted
from fedha.named import find

STATEMENT = "open(__file__ + '.ran', 'w').close()\n"
CONFIG = {
    "data": {"color_flips": [0.1, 0.2, 0.3]},
    "model": {"hidden": [6], "one_logit": True},
    "recipe": "erm",
    "federation": {"clients": 2},
}
PLUGINS = {plugins.STATISTICS: "strange", plugins.RECIPES: "strange", plugins.DATA: "strange", plugins.RULES: "strange"}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that is installed at the site, and leaves a file where it is imported."""
    path = tmp_path / "stranger_at_site.py"
    path.write_text(f"{STATEMENT}def made(**options):\n    return None\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "stranger_at_site", raising=False)
    for name, place in (("FEDHA_ACCEPTED", tmp_path / accepted.FILE), ("FEDHA_CACHE", tmp_path / "cache")):
        monkeypatch.setenv(name, str(place))
    for name in ("FEDHA_LIMITS", "FEDHA_DATA"):
        monkeypatch.delenv(name, raising=False)
    return path


def ran(module: Path) -> bool:
    return Path(f"{module}.ran").exists()


def told(run_config: dict[str, Any]) -> str:
    """What a site answers to a server that introduces itself."""
    apps._clients.cache_clear()
    grid = InlineGrid(apps.deployed_client_app(), 2, run_config)
    content = greeted(RecordDict({"request": ConfigRecord({})}))
    (reply,) = grid.send_and_receive([Message(content, next(iter(grid.get_node_ids())), "query.introduce")])
    failed = find_failure(reply)
    return "" if failed is None else failed.sentence


def asked(changes: dict[str, Any]) -> dict[str, str]:
    """A run config whose settings nobody has checked: those of a server that writes what it likes."""
    import json

    settings = json.loads(to_json(parse(CONFIG)))
    for key, value in changes.items():
        section, _, name = key.partition(".")
        if name:
            settings[section][name] = value
        else:
            settings[section] = value
    return {"settings": json.dumps(settings), "out": "a"}


NAMED = [
    {"data": {"name": "stranger_at_site:made"}},
    {"model": {"name": "stranger_at_site:made"}},
    {"training.optimizer": "stranger_at_site:made"},
    {"training.optimizer": {"name": "stranger_at_site:made", "strength": 1.0}},
    {"training.weight_averaging": "stranger_at_site:made"},
    {"evaluation": {"metrics": ["stranger_at_site:made"]}},
    {"recipe": [{"name": "custom", "align": {"stranger_at_site:made": 1.0}}]},
    {"data": {"name": "folder", "size": 8, "channels": 1, "augment": "stranger_at_site:made"}},
    {"data": {"name": "folder", "size": 8, "channels": 1, "augment": {"name": "stranger_at_site:made", "p": 1}}},
]


@pytest.mark.parametrize("changes", NAMED)
@pytest.mark.parametrize("covered", [False, True])
def test_code_that_a_config_names_is_refused_by_name_before_it_is_imported(
    changes: dict[str, Any], covered: bool, module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if covered:  # where what goes wrong is told by its kind alone, this is still told whole: it holds nothing of data
        (module.parent / "limits.yaml").write_text("max_epsilon: 1.0\n")
        monkeypatch.setenv("FEDHA_LIMITS", str(module.parent / "limits.yaml"))
    said = told(asked(changes))
    assert "'stranger_at_site:made', which names code that was not accepted here" in said
    assert "add `code NAME` to accepted.txt" in said
    assert not ran(module)
    (module.parent / accepted.FILE).write_text("code stranger_at_site:made\n")
    said = told(asked(changes))
    assert "was not accepted" not in said
    later = ("augment", "weight_averaging", "metrics")  # which are looked up when the first image is, or by a contract
    if not any(key in str(changes) for key in later):
        assert ran(module)


@pytest.mark.parametrize(
    "place", ["subprocess:check_output", "os:system", "builtins:exec", "fedha.deploy.forward:main"]
)
@pytest.mark.parametrize("key", ["data", "model"])
def test_what_python_itself_has_is_code_too(key: str, place: str, module: Path) -> None:
    assert f"{place!r}, which names code that was not accepted" in told(asked({key: {"name": place, "args": ["true"]}}))


@pytest.mark.parametrize("group", PLUGINS)
def test_what_an_installed_package_adds_is_refused_unless_it_is_accepted(
    group: str, module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = EntryPoint("strange", "stranger_at_site:made", group)
    stock = plugins.installed
    monkeypatch.setattr(plugins, "installed", lambda one: {"strange": point} if one == group else stock(one))
    changes: dict[str, Any] = {
        plugins.STATISTICS: {"recipe": [{"name": "custom", "align": {"strange": 1.0}}]},
        plugins.RECIPES: {"recipe": [{"name": "strange"}]},
        plugins.DATA: {"data": {"name": "strange"}},
        plugins.RULES: {"training.optimizer": "strange"},
    }[group]
    assert "'stranger_at_site:made', which names code that was not accepted here" in told(asked(changes))
    assert not ran(module)
    (module.parent / accepted.FILE).write_text("code stranger_at_site:made\n")
    assert "was not accepted" not in told(asked(changes))
    assert ran(module)


def test_fedhas_own_names_need_no_line(module: Path) -> None:
    with accepted.only_this(accepted.Accepted({}, frozenset())):
        for group, rows in plugins.BUILT_IN.items():
            for name in rows:
                if group == plugins.LOGGERS:  # which are the server's
                    with pytest.raises(FedhaError, match="was not accepted here"):
                        find(group, plugins.location(group, name))
                    continue
                assert callable(find(group, plugins.location(group, name)))
    assert told(asked({})) == ""


@pytest.mark.parametrize(
    "given", [{}, {"config": "/etc/passwd"}, {"settings": "", "config": "x.yaml", "overrides": "a=b"}]
)
def test_a_run_names_no_file_of_a_site(given: dict[str, str], module: Path) -> None:
    assert told(given) == (
        "the run brings no settings of its own, and a site reads no file for one; use `fedha deploy run`"
    )


def test_a_file_of_accepted_code_that_is_broken_answers_nothing(module: Path) -> None:
    (module.parent / accepted.FILE).write_text("all\n")
    assert "line 1 of this site's accepted.txt is 'all'" in told(asked({}))


def test_what_names_code_is_told_whole_where_other_errors_are_told_by_their_kind() -> None:
    """Also where it is looked up late, as a transform is with the first image: it holds a setting, and no data."""
    with pytest.raises(FedhaError, match=r"could not answer \(FedhaError\)"), errors_by_kind("north"):
        raise FedhaError("of the data")
    with (
        pytest.raises(FedhaError, match="'os:getcwd', which names code"),
        errors_by_kind("north"),
        permitted.only((), ""),
    ):
        find("data.augment", "os:getcwd")


def test_elsewhere_a_config_names_what_it_likes_and_a_program_adds_its_own(module: Path) -> None:
    assert callable(find("data.name", "stranger_at_site:made"))
    with permitted.only((), "no"):
        with pytest.raises(FedhaError, match="not accepted here; no"):
            find("data.name", "os:getcwd")
        permitted.permit("os:getcwd")
        assert callable(find("data.name", "os:getcwd"))
    assert callable(find("data.name", "os:getpid"))
