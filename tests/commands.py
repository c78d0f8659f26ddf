"""What a command that a test types gives back."""

from collections.abc import Callable

Command = Callable[..., tuple[int, str, str]]  # exit code, stdout, stderr
