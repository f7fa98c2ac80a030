"""Classes of the generated file that stand for the named outputs of a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fxprune.codegen.literals import keywords, quoted
from fxprune.codegen.names import Names

__all__ = ["Records"]


class Records:
    """Named tuples and dataclasses get an equal class in the file; subclasses of dict become plain dicts.

    Attributes:
        standins: class of the traced model -> name of its stand-in.
    """

    def __init__(self, names: Names) -> None:
        self.names = names
        self.standins: dict[type, str] = {}

    def call(self, cls: type, args: Sequence[Any], kwargs: Mapping[str, Any], text: Callable[[Any], str]) -> str:
        """Return the expression for the stand-in of ``cls(*args, **kwargs)``; `text` renders one value."""
        if issubclass(cls, dict):
            return self._dict(cls, args, kwargs, text)
        if cls not in self.standins:
            self.standins[cls] = self.names.declare(cls.__name__)
        given = dict(kwargs)
        if dataclasses.is_dataclass(cls):
            fields = [field for field in dataclasses.fields(cls) if field.init]
            given = {**dict(zip((field.name for field in fields), args)), **kwargs}  # noqa: B905 (shorter args)
            for field in fields:
                if field.name not in given:
                    factory = field.default_factory
                    given[field.name] = field.default if factory is dataclasses.MISSING else factory()
            args = ()
        inner = [*map(text, args), *keywords({name: text(value) for name, value in given.items()})]
        return f"{self.standins[cls]}({', '.join(inner)})"

    def definitions(self) -> list[str]:
        """Return the source of the stand-ins, one class after another, with two empty lines after each."""
        lines: list[str] = []
        for cls, name in self.standins.items():
            if dataclasses.is_dataclass(cls):
                head = [f"@{self.names.use('dataclass')}", f"class {name}:"]
                fields = [f"    {field.name}: Any" for field in dataclasses.fields(cls) if field.init]
            else:
                head = [f"class {name}({self.names.use('NamedTuple')}):"]
                fields = [f"    {field}: Any" for field in cls._fields]  # type: ignore[attr-defined]
            lines += [*head, *(fields or ["    pass"]), "", ""]
        return lines

    def _dict(self, cls: type, args: Sequence[Any], kwargs: Mapping[str, Any], text: Callable[[Any], str]) -> str:
        given = dict(kwargs)
        if dataclasses.is_dataclass(cls):  # such dicts leave out what is None
            given = {**dict(zip((field.name for field in dataclasses.fields(cls)), args)), **kwargs}  # noqa: B905
            given, args = {name: value for name, value in given.items() if value is not None}, ()
        items = ", ".join(f"{quoted(name)}: {text(value)}" for name, value in given.items())
        spread = [f"**{self.names.use('dict')}({text(args[0])})"] if args else []
        return "{" + ", ".join([*spread, *([items] if items else [])]) + "}"
