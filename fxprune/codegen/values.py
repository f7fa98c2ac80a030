"""What kind of value a node of the graph makes: a tensor, a plain number, a tuple of known length."""

from __future__ import annotations

import builtins
import dataclasses
import math
import operator
from typing import Any

from torch import nn
from torch.fx import Node

from fxprune.tracing.graphs.one_mode import only_mode
from fxprune.tracing.values.objects import Make

__all__ = [
    "called_by",
    "is_augmented",
    "is_growing",
    "is_inplace",
    "is_loop",
    "is_metadata",
    "is_record",
    "is_select_mode",
    "is_statement",
    "is_tuple",
    "says_nothing",
    "tuple_length",
]

METADATA_METHODS = frozenset({"size", "dim", "numel", "nelement", "ndimension", "is_floating_point", "is_complex"})
METADATA_ATTRIBUTES = frozenset({"shape", "ndim", "dtype", "device", "is_cuda", "layout", "training"})
ARITHMETIC = frozenset({"int", "float", "bool", "round", "max", "min", "abs", "len", "sum", "divmod", "tuple"})
STATEMENTS = frozenset({"setitem", "delitem"})
SHIFTS = ("ilshift", "irshift")
INPLACE_OPERATORS = frozenset(
    [
        "iadd",
        "isub",
        "imul",
        "itruediv",
        "ifloordiv",
        "imod",
        "ipow",
        "imatmul",
        "iand",
        "ior",
        "ixor",
        *SHIFTS,
    ]
)
# torch.nn modules and methods that return a pair whatever they are given.
PAIRS = (nn.RNNBase, nn.LSTMCell, nn.MultiheadAttention)


def called_by(node: Node) -> tuple[str, ...]:
    """The modules that a node calls: one, or those of a loop."""
    if node.op == "call_module":
        return (str(node.target),)
    return node.target.targets if is_loop(node) else ()  # type: ignore[union-attr]


def is_loop(node: Node) -> bool:
    """Return True for a node that calls all parts of a container in turn."""
    return node.op == "call_function" and hasattr(node.target, "targets")


def is_select_mode(node: Node) -> bool:
    """Return True for ``select_mode(training, value_if_training, value_otherwise)``."""
    named = getattr(node.target, "__name__", "") == "select_mode"
    return node.op == "call_function" and named and getattr(node.target, "__module__", "").startswith("fxprune.")


def is_growing(node: Node) -> bool:
    """Return True for a node that calls all parts of a container with a list, to which each appends what it returns."""
    return is_loop(node) and hasattr(node.target, "grows")


def is_metadata(node: Node) -> bool:
    """Return True if `node` is a number, dtype or device that follows from shapes: cheap and never stale."""
    if node.op == "call_method":
        return node.target in METADATA_METHODS
    if node.op != "call_function" or is_select_mode(node):
        return False
    if node.target is getattr:
        return node.args[1] in METADATA_ATTRIBUTES
    module, name = getattr(node.target, "__module__", ""), getattr(node.target, "__name__", "")
    plain = module == math.__name__ or (module == builtins.__name__ and name in ARITHMETIC)
    infix = getattr(operator, name, None) is node.target and name not in STATEMENTS
    return (plain or infix) and bool(node.all_input_nodes) and all(map(is_metadata, node.all_input_nodes))


def is_statement(node: Node) -> bool:
    """Return True if `node` is written as a statement that has no value: ``x[i] = y``, ``assert ...``."""
    name = getattr(node.target, "__name__", "")
    return node.op == "call_function" and (node.target in _VALUELESS or name == "_assert")


_VALUELESS = (operator.setitem, operator.delitem, only_mode)


def says_nothing(node: Node) -> bool:
    """Return True for an assertion that a number of the input's shape equals itself, or is not less than itself."""
    if getattr(node.target, "__name__", "") != "_assert" or not node.args:
        return False
    condition, holds = node.args[0], (operator.eq, operator.le, operator.ge)
    if isinstance(condition, Node) and condition.target is operator.not_:
        condition, holds = condition.args[0], (operator.ne, operator.lt, operator.gt)
    plain = isinstance(condition, Node) and is_metadata(condition) and condition.target in holds
    return plain and condition.args[0] is condition.args[1]  # type: ignore[union-attr]


def is_augmented(node: Node) -> bool:
    """Return True if `node` is written ``x += y``."""
    name = getattr(node.target, "__name__", "")
    known = name in INPLACE_OPERATORS and getattr(operator, name) is node.target
    return node.op == "call_function" and known and not is_metadata(node)


def is_inplace(node: Node, module: nn.Module | None) -> bool:
    """Return True if `node` may change its first argument. `module` is the called one, if any."""
    if node.op == "call_module":
        return bool(getattr(module, "inplace", False))
    name = _called(node)
    marked = name.endswith("_") and not name.endswith("__")
    operators = node.op == "call_function" and name in INPLACE_OPERATORS | STATEMENTS
    return node.op != "get_attr" and (marked or operators or bool(node.kwargs.get("inplace")) or "out" in node.kwargs)


def is_record(target: Any) -> bool:
    """Return True for what makes named outputs: named tuples, dataclasses, subclasses of dict, objects of any class."""
    if isinstance(target, Make):
        return True
    if not isinstance(target, type):
        return False
    named_tuple = issubclass(target, tuple) and hasattr(target, "_fields")
    return named_tuple or dataclasses.is_dataclass(target) or (issubclass(target, dict) and target is not dict)


def tuple_length(node: Node, module: nn.Module | None) -> int | None:
    """Return the length of the tuple or list that `node` makes, or None if the graph does not tell."""
    if node.op == "call_module":
        return 2 if isinstance(module, PAIRS) else None
    name = _called(node)
    if name in ("split", "split_with_sizes"):
        sizes = node.args[1] if len(node.args) > 1 else node.kwargs.get("split_size_or_sections")
        sizes = node.kwargs.get("split_sizes", node.kwargs.get("split_size", sizes))
        return len(sizes) if isinstance(sizes, (list, tuple)) else None
    if name == "chunk":
        count = node.args[1] if len(node.args) > 1 else node.kwargs.get("chunks")
        last = any(user.target is operator.getitem and user.args[1] == _less(count) for user in node.users)
        return count if isinstance(count, int) and last else None  # chunk may return fewer, never more
    value = node.meta.get("val", node.meta.get("example_value"))
    return len(value) if isinstance(value, (list, tuple)) else None


def is_tuple(node: Node, module: nn.Module | None) -> bool:
    """Return True if `node` makes a tuple or list, as far as the graph tells."""
    listed = node.meta.get("list") or _called(node) in ("chunk", "split", "tensor_split", "unbind")
    return bool(listed) or tuple_length(node, module) is not None


def _called(node: Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def _less(count: Any) -> Any:
    return count - 1 if isinstance(count, int) else None
