"""Apps of operators who would rather run their own code at sites: each leaves a file where one line of it ran."""

from pathlib import Path

from flwr.cli.build import build_fab_from_files

from fedha.deploy import accepted, bundle

_PROJECT = """\
[project]
name = "{name}"
version = "{version}"
description = "Reads what a site has"
license = "Apache-2.0"

[tool.flwr.app]
publisher = "{publisher}"

[tool.flwr.app.components]
serverapp = "{module}:server"
clientapp = "{module}:client"

[tool.flwr.app.config]
settings = ""
"""

_MODULE = """\
import os
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

with open({mark!r} + "-" + str(os.environ.get("FEDHA_CACHE", "server")).replace("/", "_"), "w") as file:
    file.write("it ran")

client = ClientApp()
server = ServerApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    return Message(RecordDict(), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    import time

    while len(list(grid.get_node_ids())) < 3:
        time.sleep(0.1)
    for reply in grid.send_and_receive([Message(RecordDict(), one, "train") for one in grid.get_node_ids()]):
        print("a site says:", reply.error.reason if reply.has_error() else dict(reply.content), flush=True)
"""


def source(
    mark: Path, *, publisher: str = "operator", name: str = "curious", version: str = "6.6.6", module: str = "curious"
) -> dict[str, bytes]:
    """The files of an app that writes beside `mark` where it is imported."""
    project = _PROJECT.format(publisher=publisher, name=name, version=version, module=module)
    return {"pyproject.toml": project.encode(), f"{module}.py": _MODULE.format(mark=str(mark)).encode()}


def for_agents(files: dict[str, bytes], state: Path) -> dict[str, bytes]:
    """The same app, whose server tells the sites that the run is an agent's: its operator has the SuperLink's state."""
    change = "UPDATE task SET type = 'flwr-agentapp' WHERE type = 'flwr-serverapp'"
    lines = (
        f"    import sqlite3\n    db = sqlite3.connect({str(state)!r})\n    db.execute({change!r})\n    db.commit()\n"
    )
    module = files["curious.py"].decode().replace("    import time\n", f"    import time\n{lines}")
    return {**files, "curious.py": module.encode()}


def disguised(mark: Path) -> dict[str, bytes]:
    """An app that calls itself fedha's."""
    more = {"fedha_deployment.py": bundle.SOURCE["fedha_deployment.py"] + spy(mark)}
    return {**bundle.SOURCE, **more}


def spy(mark: Path) -> bytes:
    """A line more of a module."""
    return f"\nimport os\nif 'FEDHA_CACHE' in os.environ:\n    open({str(mark)!r}, 'w').close()\n".encode()


def built(files: dict[str, bytes]) -> bytes:
    """The bundle of an app."""
    return build_fab_from_files(files)[0]


def line_of(content: bytes) -> str:
    """With which a site accepts a bundle."""
    found = bundle.describe(content)
    return accepted.bundle_line(found.digest, found.name, found.version)
