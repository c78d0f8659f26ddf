"""How a command ends: exit codes, and one sentence for whatever went wrong."""

import sys
import traceback
from collections.abc import Callable
from typing import Any

import click
from typer import rich_utils

from fedha.cli import stopping
from fedha.errors import FedhaError, StoppedError
from fedha.exhausted import out_of_memory

FAILED, REFUSED = 1, 2


class EndedError(Exception):
    """A command ended before its work was done; the message says how to go on.

    Attributes:
        code: The exit code.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def exit_code(command: Callable[..., Any]) -> int:
    """Run a typer app, explain on stderr what went wrong, and return the exit code.

    Returns:
        0, 2 for what the user can mend, 130 after Ctrl-C, 143 after SIGTERM, 1 for what nobody expected.
    """
    with stopping.noted():
        return _ended(command)


def _ended(command: Callable[..., Any]) -> int:
    try:
        code = command(standalone_mode=False)
        if code == stopping.INTERRUPTED and stopping.asked():  # typer makes that of KeyboardInterrupt, whatever signal
            return _explain("stopped", stopping.exit_code())
        return code if isinstance(code, int) else 0
    except StoppedError as error:
        return _explain(str(error), stopping.exit_code())
    except FedhaError as error:
        return _explain(str(error), REFUSED)
    except EndedError as error:
        return _explain(str(error), error.code)
    except click.ClickException as error:
        rich_utils.rich_format_error(error)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _explain("stopped", stopping.exit_code())
    except Exception as error:
        if exhausted := out_of_memory(error):
            return _explain(exhausted, REFUSED)
        traceback.print_exc()
        return _explain(one_line(error), FAILED)


def one_line(error: BaseException) -> str:
    """An exception's kind and message in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _explain(text: str, code: int) -> int:
    sys.stderr.write(f"fedha: {text}\n")
    return code
