"""What a run does not need is not imported: a deployed client pays for its imports with every message."""

import json
import subprocess
import sys
from pathlib import Path

NEEDLESS = {"torch._dynamo", "sqlalchemy", "alembic", "fastapi", "matplotlib"}

_RUN = """
import json, sys
from pathlib import Path
from fedha.cli.launch import find_config
from fedha.run import execute
from fedha.runs.listener import Silent
changes = ["recipe=exact_diagonal", "seed=0", "training.rounds=2", "evaluation.leave_one_domain_out=false"]
execute(find_config("quickstart", changes, "inline").runs()[0], Path(sys.argv[1]), Silent())
print(json.dumps(list(sys.modules)))
"""


def test_a_run_imports_no_compiler_no_database_and_no_web_server(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(tmp_path / "run")], capture_output=True, text=True, check=True, timeout=120
    )
    assert NEEDLESS & set(json.loads(done.stdout)) == set()
