"""glibc's caches of small freed memory are off where fedha computes."""

import subprocess
import sys

import pytest

from fedha.heap import TUNABLES, uncached

NONE = "glibc.malloc.tcache_count=0"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, NONE),
        ({TUNABLES: ""}, NONE),
        ({TUNABLES: "glibc.malloc.arena_max=2"}, f"glibc.malloc.arena_max=2:{NONE}"),
        ({TUNABLES: "glibc.malloc.tcache_count=3"}, "glibc.malloc.tcache_count=3"),  # somebody knows better
    ],
)
def test_the_setting_is_added_to_what_is_there(given: dict[str, str], wanted: str) -> None:
    assert uncached(given) == wanted
    assert uncached({TUNABLES: wanted}) == wanted


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_a_command_goes_on_in_its_own_process_with_its_own_arguments() -> None:
    code = (
        "import os, sys; from fedha.heap import restart_uncached; print(os.getpid(), flush=True); "
        "restart_uncached(); print(sys.argv[1:], os.environ['GLIBC_TUNABLES'], sys.stdin.read())"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, "run", "a b", "--x=ü"]
    done = subprocess.run(command, input="told", env={}, capture_output=True, text=True, check=True)
    first, second, said = done.stdout.splitlines()
    assert first == second  # before, and after: the process is the same
    assert said == f"['run', 'a b', '--x=ü'] {NONE} told"
