"""``--config FILE``: options of commands in a TOML file.

::

    [prune]
    model = "timm:resnet50"
    ratio = 0.5
    ignore = ["layer4.*"]
    exact-norms = true

A table for each command; a key is the long name of an option, or the name of an argument in lower case. The command line wins
over the file. What a value says, it says as the command line would: paths are relative to the present folder, not to the file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from fxprune.errors import InputError, nearest, said, shown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["kind_of", "read_table", "values_of"]


def read_table(path: Path, command: str, commands: Iterable[str]) -> dict[str, Any]:
    """The table of a command; empty if the file has none.

    Raises:
        InputError: the file cannot be read, or has a table of no command.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--config {shown(str(path))} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"--config {shown(str(path))} is no text in UTF-8: {said(error)}") from error
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise InputError(f"--config {shown(str(path))} is no TOML: {said(error)}") from error
    known = sorted(commands)
    for name, table in document.items():
        if not isinstance(table, dict):
            raise InputError(f"{path}: {name!r} stands in no table: write it below the name of a command, as [prune]")
        if name not in known:
            raise InputError(f"{path}: [{name}] is no command{nearest(name, known)}: there are {', '.join(known)}")
    found: dict[str, Any] = document.get(command, {})
    return found


def values_of(table: Mapping[str, Any], kinds: Mapping[str, tuple[str, Any]], where: str) -> dict[str, Any]:
    """What the table says, by parameter of the command, in the form in which a command line has it.

    Args:
        kinds: for each key that there is, the parameter's name and annotation.
        where: file and table, for messages.

    Raises:
        InputError: a key is unknown, or its value is of another type.
    """
    found = {}
    for key, value in table.items():
        if key not in kinds:
            raise InputError(f"{where}: there is no option {key!r}{nearest(key, kinds)}: keys are long names of options")
        name, annotation = kinds[key]
        kind, many = kind_of(annotation)
        if many:
            values = value if isinstance(value, list) else [value]
            found[name] = [_text(each, kind, f"{where}: {key!r}", "a list of ") for each in values]
        else:
            found[name] = _text(value, kind, f"{where}: {key!r}")
    return found


def kind_of(annotation: Any) -> tuple[Any, bool]:
    """The type of a parameter's values, and whether there may be several.

    >>> kind_of(Annotated[list[str] | None, "help"])
    (<class 'str'>, True)
    """
    origin = get_origin(annotation)
    if origin is Annotated:
        return kind_of(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return kind_of(next(part for part in get_args(annotation) if part is not type(None)))
    if origin is list:
        return get_args(annotation)[0], True
    return annotation, False


_SAID = {bool: "true or false", int: "a whole number", float: "a number"}


def _text(value: Any, kind: Any, where: str, several: str = "") -> Any:
    """A value as the command line has it.

    Raises:
        InputError: it is of another type.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is bool:
        fits = isinstance(value, bool)
    elif kind is int:
        fits = number and not isinstance(value, float)
    elif kind is float:
        fits = number
    elif value == "":
        raise InputError(f"{where} is empty")
    else:  # text; a number stands for its digits, as in latency = 0.6
        fits = isinstance(value, str) or (kind is str and number)
    if not fits:
        wanted = _SAID.get(kind, "text")
        if isinstance(kind, type) and issubclass(kind, Enum):
            wanted = f"one of {', '.join(member.value for member in kind)}"
        raise InputError(f"{where} must be {several}{wanted}, not {shown(value)}")
    return value if kind is bool else str(value)
