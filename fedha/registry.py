"""Which statistics there are: fedha's table, those of installed packages, and those that a program adds.

A package adds one by an entry point of the group `fedha.statistics` that names a function without arguments, a config
by naming such a function, ``align: {"package.module:function": 1.0}``, and a program by `add_statistic`. A message
never adds one: what a client computes is decided by what is installed where it runs, and by the config that it reads.
"""

from fedha import plugins
from fedha.errors import FedhaError
from fedha.schema import nearest
from fedha.statistic import Mean, Statistic
from fedha.table import COUNTED, STATISTICS

_OURS = (*STATISTICS.values(), *COUNTED.values())

_added: dict[str, Statistic] = {}


def add_statistic(row: Statistic, name: str = "") -> Statistic:
    """Make a statistic known to this process; recipes then name it. On other processes it has to be added too.

    Args:
        row: The statistic.
        name: What recipes call it; default: the row's own name.

    Returns:
        The row.

    Raises:
        FedhaError: It is no `Statistic`, or its name, or that of a mean, is taken.
    """
    if not isinstance(row, Statistic):
        raise FedhaError(f"{name or 'what was added'} is a {type(row).__name__}, not a fedha.Statistic")
    called = name or row.name
    if called in STATISTICS or called in COUNTED:
        raise FedhaError(f"statistic {called!r} is one of fedha's own; give yours another name")
    taken = {mean.name for known in _OURS for mean in (*known.means, *(known.release or known.formula).means)}
    taken |= {mean.name for name, one in _added.items() if name != called for mean in one.means if mean.outer}
    for mean in row.means:
        if mean.name in taken:
            raise FedhaError(f"statistic {called!r} calls a mean {mean.name!r}, as another one does; rename it")
    _added[called] = row
    return row


def known() -> tuple[str, ...]:
    """The names that recipes can align."""
    return (*STATISTICS, *_added, *(one for one in plugins.installed(plugins.STATISTICS) if one not in _added))


def statistic(name: str) -> Statistic:
    """A statistic by its name.

    Raises:
        FedhaError: There is none of this name; or a package's entry point makes none.
    """
    row = STATISTICS.get(name) or COUNTED.get(name) or _added.get(name)
    if row is not None:
        return row
    if name in plugins.installed(plugins.STATISTICS):
        return add_statistic(plugins.made(plugins.STATISTICS, name), name)
    raise FedhaError(f"there is no statistic {name!r}{nearest(name, known())}")


def reference_of(name: str) -> str:
    """The statistic whose average is a statistic's reference."""
    return statistic(name).reference or name


def moments() -> dict[str, Mean]:
    """All means that can be released, by name."""
    formulas = [row.release for row in (*_OURS, *_added.values())]
    return {mean.name: mean for formula in formulas if formula is not None for mean in formula.means}
