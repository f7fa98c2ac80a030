"""Nodes of the graph as Python expressions, with operators, attributes and slices as one writes them."""

from __future__ import annotations

import functools
import inspect
import math
import operator
import types
from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import Node

from fxprune.codegen.literals import keywords, literal, public_path
from fxprune.codegen.names import Names, is_name
from fxprune.codegen.records import Records
from fxprune.codegen.schedule import Schedule
from fxprune.codegen.tree import Tree
from fxprune.codegen.values import is_metadata, is_record, is_select_mode
from fxprune.errors import PruneError

__all__ = ["Expressions"]

# Precedence, as in the language reference: a larger number binds tighter.
SELECT, NOT, COMPARE, UNARY, POWER, ATOM = 0, 3, 4, 11, 12, 14
INFIX = {
    "lt": ("<", COMPARE),
    "le": ("<=", COMPARE),
    "gt": (">", COMPARE),
    "ge": (">=", COMPARE),
    "eq": ("==", COMPARE),
    "ne": ("!=", COMPARE),
    "is_": ("is", COMPARE),
    "is_not": ("is not", COMPARE),
    "or": ("|", 5),
    "xor": ("^", 6),
    "and": ("&", 7),
    "lshift": ("<<", 8),
    "rshift": (">>", 8),
    "add": ("+", 9),
    "sub": ("-", 9),
    "mul": ("*", 10),
    "matmul": ("@", 10),
    "truediv": ("/", 10),
    "floordiv": ("//", 10),
    "mod": ("%", 10),
    "pow": ("**", POWER),
}
# Methods of tensors without types, of which torch has functions with types -> arguments that have another name there.
UNTYPED: dict[str, dict[str, str]] = {
    "split": {"split_size": "split_size_or_sections"},
    "unflatten": {},
    "unique": {},
    "unique_consecutive": {},
}
PREFIX = {"not": ("not ", NOT), "neg": ("-", UNARY), "pos": ("+", UNARY), "invert": ("~", UNARY)}


class Expressions:
    """Renders values and nodes.

    Args:
        tree: reaches modules, parameters and buffers.
        names: collects imports.
        schedule: says which nodes are variables and which are written inside others.
        records: stand-ins for named outputs.
    """

    def __init__(self, tree: Tree, names: Names, schedule: Schedule, records: Records) -> None:
        self.tree = tree
        self.names = names
        self.schedule = schedule
        self.records = records

    def value(self, value: Any) -> str:
        """Return the expression of an argument: a constant, a node, or a nest of these."""
        return literal(value, self.names, self._render)

    def node(self, node: Node) -> tuple[str, int]:
        """Return the expression that computes `node`, and its precedence."""
        if node.op == "get_attr":
            return self._attribute(str(node.target))
        if node.op == "call_module":
            if not node.target:  # of a class that adds to a layer
                return f"super().forward({self._arguments(node.args, node.kwargs)})", ATOM
            return f"{self.tree.access(str(node.target))}({self._arguments(node.args, node.kwargs)})", ATOM
        if node.op == "call_method":
            return self._method(node)
        if is_select_mode(node):
            flag, yes, no = node.args
            return f"{self.tight(yes, NOT)} if {self.tight(flag, NOT)} else {self.value(no)}", SELECT
        if is_record(node.target):
            return self.records.of_node(node, self.value), ATOM
        return self._function(node.target, node.args, node.kwargs)

    def infix(self, name: str, left: Any, right: Any) -> tuple[str, int]:
        """Return ``left <operator> right`` with the parentheses that it needs."""
        symbol, level = INFIX[name]
        # `**` groups to the right, comparisons would chain, everything else groups to the left.
        left_level = level if level not in (COMPARE, POWER) else level + 1
        right_level = UNARY if level == POWER else level + 1
        return f"{self.tight(left, left_level)} {symbol} {self.tight(right, right_level)}", level

    def tight(self, value: Any, level: int) -> str:
        """Return the expression of `value`, in parentheses if it binds less than `level`."""
        if isinstance(value, Node) and value not in self.schedule.variables:
            text, own = self.node(value)
        else:
            text = self.value(value)
            own = UNARY if text.startswith("-") else ATOM
            if level == ATOM and isinstance(value, (int, float)) and not isinstance(value, bool):
                own = UNARY  # `2.real` does not parse
        return text if own >= level else f"({text})"

    def index(self, index: Any) -> str:
        """Return what goes between the brackets of a subscript: ``:, :16, ..., 0``."""
        if isinstance(index, tuple) and index:
            comma = "," if len(index) == 1 and isinstance(index[0], (tuple, list, Node, torch.Tensor)) else ""
            return ", ".join(map(self._index_part, index)) + comma
        return self._index_part(index)

    def _negated(self, value: Any) -> tuple[str, int] | None:
        """Return ``a > b`` for ``not a <= b``, if `value` is such a comparison of sizes."""
        if not isinstance(value, Node) or value not in self.schedule.inlined or not is_metadata(value):
            return None
        opposite = {operator.le: "gt", operator.lt: "ge", operator.ge: "lt", operator.gt: "le"}
        opposite |= {operator.eq: "ne", operator.ne: "eq"}
        return self.infix(opposite[value.target], *value.args) if value.target in opposite else None

    def _render(self, value: Any) -> str | None:
        if isinstance(value, Node):
            return self.schedule.variables.get(value) or self.node(value)[0]
        if isinstance(value, tuple) and is_record(type(value)):
            return self.records.call(type(value), dict(zip(value._fields, value, strict=True)), self.value)  # type: ignore[attr-defined]
        return None

    def _attribute(self, path: str) -> tuple[str, int]:
        value = functools.reduce(getattr, path.split("."), self.schedule.slim)
        last = path.rpartition(".")[2]
        if isinstance(value, torch.Tensor) or last == "training":
            return self.tree.access(path), ATOM
        if isinstance(value, torch.nn.Module):
            raise PruneError(f"{path}: the graph passes a module as a value, which cannot be written as source")
        text = literal(value, self.names)
        return text, UNARY if text.startswith("-") else ATOM

    def _index_part(self, part: Any) -> str:
        if not isinstance(part, slice):
            return self.value(part)
        start, stop, step = ("" if bound is None else self.value(bound) for bound in (part.start, part.stop, part.step))
        return f"{start}:{stop}:{step}" if step else f"{start}:{stop}"

    def _arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        shown = keywords({name: self.value(value) for name, value in kwargs.items()})
        return ", ".join([*map(self.value, args), *shown])

    def _method(self, node: Node) -> tuple[str, int]:
        owner, *rest = node.args
        name = str(node.target)
        plain = name.strip("_")
        if name == f"__{plain}__" and not node.kwargs:
            if plain in INFIX and len(rest) == 1:
                return self.infix(plain, owner, rest[0])
            if plain == "getitem":
                return f"{self.tight(owner, ATOM)}[{self.index(rest[0])}]", ATOM
        if name in UNTYPED:  # x.split(2) -> torch.split(x, 2)
            named = {UNTYPED[name].get(key, key): value for key, value in node.kwargs.items()}
            return self._function(getattr(torch, name), (owner, *rest), named)
        if not is_name(name):
            raise PruneError(f"node {node.name}: the method {name!r} cannot be written as source")
        return f"{self.tight(owner, ATOM)}.{name}({self._arguments(tuple(rest), node.kwargs)})", ATOM

    def _function(self, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[str, int]:
        name = getattr(target, "__name__", "")
        if getattr(operator, name, None) is target and not kwargs:
            plain = name if name in ("is_", "is_not") else name.rstrip("_")
            plain = plain[1:] if plain[1:] in INFIX and plain not in INFIX else plain  # iadd of plain numbers
            if plain in INFIX and len(args) == 2:
                return self.infix(plain, *args)
            if plain in PREFIX and len(args) == 1:
                if plain == "not" and (flipped := self._negated(args[0])):
                    return flipped
                symbol, level = PREFIX[plain]
                return f"{symbol}{self.tight(args[0], level)}", level
            if plain == "getitem":
                return f"{self.tight(args[0], ATOM)}[{self.index(args[1])}]", ATOM
            if plain == "contains":
                return f"{self.tight(args[1], COMPARE + 1)} in {self.tight(args[0], COMPARE + 1)}", COMPARE
        if target is getattr and len(args) == 2 and is_name(args[1]):
            return f"{self.tight(args[0], ATOM)}.{args[1]}", ATOM
        if target is torch.split:  # whose types ask for a list
            args = tuple(list(value) if isinstance(value, tuple) else value for value in args)
        args, kwargs = _usual_arguments(target, args, kwargs)
        return f"{self.names.path(public_path(target))}({self._arguments(args, kwargs)})", ATOM


@functools.lru_cache(maxsize=512)
def _signature(target: Any) -> inspect.Signature:
    return inspect.signature(target)


def _usual_arguments(target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments without those that equal their default, and with `input` by position."""
    if not isinstance(target, types.FunctionType):
        return args, dict(kwargs)
    parameters = _signature(target).parameters
    shown = {
        name: value
        for name, value in kwargs.items()
        if name not in parameters or not _is_default(value, parameters[name].default)
    }
    if not args and next(iter(parameters), "") == "input" and "input" in shown:
        return (shown.pop("input"),), shown
    return args, shown


def _is_default(value: Any, default: Any) -> bool:
    if isinstance(value, Node) or type(value) is not type(default):
        return False
    return value is default or (isinstance(value, (bool, int, float, str)) and value == default and not _is_nan(value))


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
