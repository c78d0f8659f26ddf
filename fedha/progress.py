"""How far long work is that comes before a run: images that are decoded, features that are computed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import monotonic

Tell = Callable[[str], object]

_FIRST, _EVERY = 2.0, 10.0  # seconds until something is said, and between two sentences
_tell: ContextVar[Tell | None] = ContextVar("fedha_progress", default=None)


@contextmanager
def reporting_to(tell: Tell) -> Iterator[None]:
    """Say how far long work is, a sentence now and then; outside nothing is said."""
    token = _tell.set(tell)
    try:
        yield
    finally:
        _tell.reset(token)


def say(text: str) -> None:
    """A sentence for whoever listens."""
    if (tell := _tell.get()) is not None:
        tell(text)


def duration(seconds: float) -> str:
    """``2.1 s`` below a minute, then ``3 min 20 s``, then ``2 h 05 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


@dataclass
class Progress:
    """One piece of long work. What is over in a moment says nothing.

    Attributes:
        title: What it is, such as ``decoding art``.
        total: How much there is.
        unit: Of what, such as ``images``.
        done: How much was there before it began.
    """

    title: str
    total: int
    unit: str
    done: int = 0
    _before: int = field(init=False)
    _began: float = field(default_factory=monotonic)
    _next: float = _FIRST

    def __post_init__(self) -> None:
        self._before = self.done
        if self.done:
            say(f"{self.title}: goes on at {self.done:,} of {self.total:,} {self.unit}")

    def add(self, count: int) -> None:
        """So much more is done."""
        self.done += count
        passed = monotonic() - self._began
        if passed < self._next or self.done >= self.total:
            return
        self._next = passed + _EVERY
        rate = (self.done - self._before) / passed
        left = duration((self.total - self.done) / rate) if rate else "much"
        say(f"{self.title}: {self.done:,} of {self.total:,} {self.unit}, {rate:,.0f} a second, {left} left")

    def end(self) -> None:
        """All is done; said where it took its time."""
        if (passed := monotonic() - self._began) >= _FIRST:
            say(f"{self.title}: {self.total:,} {self.unit} in {duration(passed)}")


def byte_count(count: float) -> str:
    """``812 B``, ``12.3 kB``, ``4.5 MB``, ``1.2 GB``; thousands, not 1,024s."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB"):
        count /= 1000
        if count < 999.95:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} GB"
