"""Objects of other people's that a config names: ``package.module:function``."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fedha import permitted, plugins
from fedha.errors import FedhaError, brief, failing_line, listed
from fedha.schema import nearest
from fedha.signature import checked, grid_hint, meant, parameter_text, parameters_of


def is_own(name: str) -> bool:
    """Whether a name is that of somebody's own function, not a row of fedha's."""
    return ":" in name


def find(key: str, name: str) -> Callable[..., Any]:
    """The function that a key of the config names.

    Args:
        key: Such as ``model.name``.
        name: ``package.module:function``, or a class, or a method as ``module:Class.method``.

    Raises:
        FedhaError: As in `look_up`; or it is no function.
    """
    found = look_up(key, name)
    if not callable(found):
        raise FedhaError(f"{key} is {name!r}, which is a {type(found).__name__}; name a function that makes it")
    function: Callable[..., Any] = found
    return function


def look_up(key: str, name: str) -> Any:
    """What a key of the config names. Modules are looked for where Python looks, and where the command was started.

    Args:
        key: As in `find`.
        name: Likewise.

    Raises:
        FedhaError: It is not permitted in this process (`fedha.permitted`); or there is no such module, or nothing of
            that name in it, or its import fails.
    """
    place, _, attribute = name.partition(":")
    if not place or not attribute:
        raise FedhaError(f"{key} is {name!r}; write your own function as package.module:function")
    permitted.check(key, name)
    _look_here_too()
    try:
        found: Any = importlib.import_module(place)
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name is not None and place.startswith(error.name)
        if package := plugins.adds(name):
            told = f"{type(error).__name__}: {brief(error)}"
            raise FedhaError(
                f"{key}: {package}, which cannot be imported: {told}; mend or remove the package"
            ) from error
        why = "there is no such module" if missing else f"its import fails with {type(error).__name__}: {brief(error)}"
        raise FedhaError(f"{key} is {name!r}, but {why}; is its folder in PYTHONPATH?") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            known = [one for one in vars(found) if not one.startswith("_") and callable(getattr(found, one))]
            known.sort(key=lambda one: getattr(getattr(found, one), "__module__", "") != place)  # its own come first
            only = listed(known) if known else "nothing to call"
            if package := plugins.adds(name):
                raise FedhaError(
                    f"{key}: {package}, but {place} has no {attribute!r}, only {only}; mend or remove the package"
                )
            raise FedhaError(f"{key} is {name!r}, but {place} has no {attribute!r}, only {only}")
        found = getattr(found, part)
    return found


def call(key: str, name: str, options: Mapping[str, Any], offered: Mapping[str, Any]) -> Any:
    """What a named function makes.

    Args:
        key: As in `find`.
        name: Likewise.
        options: Its arguments, as the config gives them. Texts that are numbers or truth values become such, but where
            the signature asks for a text.
        offered: What it may have beside them, where its signature names it.

    Raises:
        FedhaError: As in `find`; or the arguments do not fit the function, or it fails.
    """
    return invoke(key.partition(".")[0], name, find(key, name), options, offered)


def invoke(
    section: str, name: str, function: Callable[..., Any], options: Mapping[str, Any], offered: Mapping[str, Any]
) -> Any:
    """What a function makes.

    Args:
        section: Of the config, for what does not fit.
        name: What people call the function.
        function: Any.
        options: Its arguments.
        offered: What it may have beside them, where its signature names it; None leaves a default of its own.

    Raises:
        FedhaError: The arguments do not fit it.
    """
    return _made(section, name, function, arguments(section, name, function, options, offered), options)


def arguments(
    section: str,
    name: str,
    function: Callable[..., Any],
    options: Mapping[str, Any],
    offered: Mapping[str, Any],
    later: Iterable[str] = (),
) -> dict[str, Any]:
    """What a function is called with.

    Args:
        section, name, function, options, offered: As in `invoke`.
        later: Its parameters that are given where it is called.

    Raises:
        FedhaError: The arguments do not fit it.
    """
    wanted = _wanted(function)
    if wanted is None:
        return {one: meant(value) for one, value in options.items()}
    more = {one: value for one, value in offered.items() if one in wanted and one not in options}
    more = {one: value for one, value in more.items() if value is not None or wanted[one].default is wanted[one].empty}
    try:
        if both := [one for one in later if one in options]:
            raise TypeError(f"got an unexpected keyword argument {both[0]!r}")
        inspect.Signature(list(wanted.values())).bind(**options, **more, **dict.fromkeys(later))
    except TypeError as error:
        hints = [f"; {one!r} is none{nearest(one, wanted)}" for one in options if one not in wanted and wanted]
        hint = next((one for one in hints if "did you mean" in one), "")
        takes = f"{name} takes {', '.join(map(parameter_text, wanted.values())) or 'nothing'}"
        raise FedhaError(f"{section}: {error}; {takes}{hint}") from error
    asked = {one: meant(value) if not _takes_text(wanted.get(one)) else value for one, value in options.items()}
    return asked | checked(section, wanted, options) | more


def _wanted(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    """A function's parameters; None where it is written in another language and does not say."""
    try:
        return parameters_of(function)
    except (TypeError, ValueError):
        return None


def _made(
    section: str,
    name: str,
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Any:
    try:
        return function(**arguments)
    except FedhaError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {brief(error)}"
        raise FedhaError(
            f"{section}.name is {name!r}, which fails with {reason} ({failing_line(error)}); mend it, or "
            f"its arguments{grid_hint(section, _wanted(function) or {}, options)}"
        ) from error


def _takes_text(parameter: inspect.Parameter | None) -> bool:
    return parameter is not None and (
        parameter.annotation in (str, "str", str | None, "str | None") or isinstance(parameter.default, str)
    )


def name_of(function: Callable[..., Any]) -> str | None:
    """The name under which `find` finds a function again in another process; None where there is none."""
    place, attribute = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    if not place or place == "__main__" or "<" in attribute:
        return None
    found: Any = sys.modules.get(place)
    for part in attribute.split("."):
        found = getattr(found, part, None)
    return f"{place}:{attribute}" if found is function else None


def _look_here_too() -> None:
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
