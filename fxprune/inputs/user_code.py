"""Code that a user names: a file, which is run like any script, or a module, and something in it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from fxprune.errors import InputError, nearest, said, shown

__all__ = ["called", "named_by", "named_in_file", "named_in_module"]


def named_in_file(path: Path, name: str) -> Any:
    """What a Python file calls `name`. The file is run; its neighbours can be imported.

    Raises:
        InputError: there is no such file or name, or the file cannot be run.
    """
    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r}")
    unique = f"_fxprune_model_{path.stem}"
    spec = importlib.util.spec_from_file_location(unique, path)
    assert spec is not None and spec.loader is not None  # a .py file always has a loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module  # dataclasses look their module up
    with _importable(path.parent):
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:  # a script may end the process
            raise InputError(f"{path} cannot be run: {type(error).__name__}: {said(error)}") from error
    return _named(module, name, str(path))


def named_in_module(module: str, name: str, hint: str = "") -> Any:
    """What an importable module calls `name`; modules in the present folder are found, too.

    >>> named_in_module("math", "tau") > 6
    True

    Args:
        hint: what the message says of a module that is not there.

    Raises:
        InputError: there is no such module or name, or the module cannot be imported.
    """
    with _importable(Path.cwd()):
        try:
            found = importlib.import_module(module)
        except (Exception, SystemExit) as error:
            raise InputError(f"module {module!r} cannot be imported: {type(error).__name__}: {said(error)}{hint}") from error
    return _named(found, name, f"module {module!r}")


def named_by(text: str) -> Any:
    """What ``file.py:NAME`` or ``module:NAME`` names.

    Raises:
        InputError: there is no such thing.
    """
    where, _, name = text.rpartition(":")
    if not where or not name:
        raise InputError(f"{shown(text)} is not of the form file.py:NAME or module:NAME")
    return named_in_file(Path(where), name) if where.endswith(".py") else named_in_module(where, name)


def called(function: Any, where: str, beside: Path | None = None) -> Any:
    """What a user's function or class gives without an argument; `beside`: the file it is from, whose neighbours it may import.

    Raises:
        InputError: it fails.
    """
    with _importable(Path.cwd() if beside is None else beside.parent):
        try:
            return function()
        except (Exception, SystemExit) as error:
            raise InputError(f"{where}() failed: {type(error).__name__}: {said(error)}") from error


def _named(module: ModuleType, name: str, where: str) -> Any:
    if not hasattr(module, name):
        raise InputError(f"{where} has no {name!r}{nearest(name, vars(module))}")
    return getattr(module, name)


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Inside, modules of a folder are found first, as they are for a script that lies in it."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)
