"""Classes of the generated file that stand for the named outputs of a model."""

from __future__ import annotations

import ast
import dataclasses
import types
from collections import UserDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.fx import Node

from fxprune import nested
from fxprune.codegen.literals import keywords, quoted
from fxprune.codegen.names import Names, is_name
from fxprune.codegen.structured.printer import lines_of
from fxprune.errors import PruneError
from fxprune.tracing.values.objects import Make

__all__ = ["Records"]

Text = Callable[[Any], str]

RECORD = '''class {name}(dict[str, Any]):
    """Named outputs: ``out.name`` is ``out["name"]``, and ``out[0]`` the first of them."""

    _names: tuple[str, ...] = ()  # of fields that are None where there is no entry

    def __getattr__(self, name: str) -> Any:
        if name in self or name in self._names:
            return self.get(name)
        raise AttributeError(name)

    def __getitem__(self, key: Any) -> Any:
        by_place = isinstance(key, slice) or (isinstance(key, int) and key not in self)
        return self.to_tuple()[key] if by_place else super().__getitem__(key)

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(self.values())
'''


class Records:
    """Named tuples and dataclasses get an equal class in the file; dicts of a class of their own one with attributes; other
    objects a class that only holds attributes.

    Attributes:
        standins: class of the traced model -> name of its stand-in.
    """

    def __init__(self, names: Names) -> None:
        self.names = names
        self.standins: dict[type, str] = {}
        self._record: str | None = None

    def of_node(self, node: Node, text: Text) -> str:
        """Return the expression for what `node` makes, an object of a class of the model; `text` renders one value."""
        target: Any = node.target
        if not isinstance(target, Make):
            return self.call(target, _bound(target, node.args, node.kwargs), text, node.args)
        given = dict(zip(target.keys, node.args, strict=True))
        fixed = {key: value for key, value in nested.entries(target.like).items() if key not in given}
        form = nested.form_of(target.like)
        if form == "sequence" and not hasattr(target.kind, "_fields"):
            items = ", ".join(map(text, node.args))
            return f"[{items}]" if issubclass(target.kind, list) else f"({items},)"
        if form == "registered":
            raise PruneError(
                f"an output of class {target.kind.__qualname__} cannot be written as source: return a dict of tensors"
            )
        if hasattr(target.kind, "_fields"):
            given = dict(zip(target.kind._fields, given.values(), strict=True))
        return self.call(target.kind, given | _writable(fixed, text), text)

    def call(self, cls: type, given: Mapping[Any, Any], text: Text, args: Sequence[Any] = ()) -> str:
        """Return the expression for the stand-in of a `cls` with these entries; `args`: of a dict, another to start with."""
        if issubclass(cls, (dict, UserDict)):
            return self._dict(cls, given, text, args)
        if cls is types.SimpleNamespace:
            return f"{self.names.use('SimpleNamespace')}({_arguments(given, text)})"
        if hasattr(cls, "_fields"):
            return f"{self._standin(cls)}({', '.join(text(given[name]) for name in cls._fields)})"
        return f"{self._standin(cls)}({_arguments(given, text)})"

    def definitions(self) -> list[str]:
        """Return the source of the stand-ins, one class after another, with two empty lines after each."""
        lines: list[str] = []
        if self._record is not None:
            lines += [*RECORD.format(name=self._record).splitlines(), "", ""]
        for cls, name in self.standins.items():
            fields = [f.name for f in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []
            if issubclass(cls, (dict, UserDict)):
                lines += [f"class {name}({self._record}):"]
                shown = f"_names = ({', '.join(map(quoted, fields))}{',' * (len(fields) == 1)})"
                lines += lines_of(ast.parse(shown).body, 4) if fields else []
            elif dataclasses.is_dataclass(cls):
                lines += [f"@{self.names.use('dataclass')}", f"class {name}:", *(f"    {field}: Any" for field in fields)]
            elif hasattr(cls, "_fields"):
                lines += [f"class {name}({self.names.use('NamedTuple')}):", *(f"    {field}: Any" for field in cls._fields)]
            else:
                lines += [f"class {name}({self.names.use('SimpleNamespace')}):"]
            lines += [*(["    pass"] if lines[-1].startswith("class") else []), "", ""]
        return lines

    def _standin(self, cls: type) -> str:
        if cls not in self.standins:
            self.standins[cls] = self.names.declare(cls.__name__)
            if not issubclass(cls, (tuple, dict, UserDict)):
                self.names.use("dataclass" if dataclasses.is_dataclass(cls) else "SimpleNamespace")
            elif issubclass(cls, tuple):
                self.names.use("NamedTuple")
        return self.standins[cls]

    def _dict(self, cls: type, given: Mapping[Any, Any], text: Text, args: Sequence[Any]) -> str:
        if dataclasses.is_dataclass(cls):  # such dicts leave out what is None
            given, args = {name: value for name, value in given.items() if value is not None}, ()
        items = ", ".join(f"{text(key)}: {text(value)}" for key, value in given.items())
        spread = [f"**{self.names.use('dict')}({text(args[0])})"] if args else []
        shown = "{" + ", ".join([*spread, *([items] if items else [])]) + "}"
        if cls is dict or cls.__module__ == "collections":
            return shown
        self._record = self._record or self.names.declare("Record")
        name = self._standin(cls)
        plain = not spread and all(isinstance(key, str) and is_name(key) for key in given)
        return f"{name}({_arguments(given, text) if plain else shown})"


def _arguments(given: Mapping[Any, Any], text: Text) -> str:
    return ", ".join(keywords({name: text(value) for name, value in given.items()}))


def _bound(cls: type, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of ``cls(*args, **kwargs)`` by name, defaults included."""
    if hasattr(cls, "_fields"):
        defaults = getattr(cls, "_field_defaults", {})
        return {**defaults, **dict(zip(cls._fields, args)), **kwargs}  # noqa: B905 (shorter args)
    if not dataclasses.is_dataclass(cls):
        return dict(kwargs)
    fields = [field for field in dataclasses.fields(cls) if field.init]
    given = {**dict(zip((field.name for field in fields), args)), **kwargs}  # noqa: B905
    for field in fields:
        if field.name not in given:
            factory = field.default_factory
            given[field.name] = field.default if factory is dataclasses.MISSING else factory()
    return given


def _writable(fixed: Mapping[Any, Any], text: Text) -> dict[Any, Any]:
    """Of the parts that hold nothing of the model (settings, classes) those that can be written."""
    found = {}
    for key, value in fixed.items():
        try:
            text(value)
        except PruneError:
            continue
        found[key] = value
    return found
