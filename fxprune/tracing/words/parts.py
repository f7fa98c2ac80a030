"""What ``__init__`` calls the numbers with which a model's parts are made.

self.fc1 = nn.Linear(dim, hidden)    ->    "mlp.fc1": {"in_features": "dim", "out_features": "hidden"}
"""

from __future__ import annotations

import ast
import functools
import inspect
from collections import defaultdict
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any

from torch import nn

from fxprune.state import named_parts
from fxprune.tracing.words.trees import tree_of, word_of

__all__ = ["part_words"]

SURE = 2  # so many arguments by place mean the same whatever makes a layer: what comes in and what goes out


def part_words(model: nn.Module) -> dict[str, dict[str, str]]:
    """Part of the model -> argument of its class -> what the code that makes the part calls that number.

    Arguments of a class's own base go by the part's name and ``super()``, those of a tensor by their places.
    """
    found: dict[str, dict[str, str]] = {}
    for path, module in named_parts(model, once=True):
        prefix = f"{path}." if path else ""
        for kind in type(module).__mro__:
            init = vars(kind).get("__init__")
            if kind.__module__.partition(".")[0] == "torch" or not isinstance(init, FunctionType):
                continue
            for name, calls in _assigned(inspect.unwrap(init).__code__).items():
                held = {**module._parameters, **module._modules}
                part = held.get(name) if name else _base(kind)
                for place, words in _agreed(calls, part, init.__globals__).items():
                    own = found.setdefault(f"{prefix}{name or 'super()'}{place}", {})
                    own.update({argument: word for argument, word in words.items() if argument not in own})
    return found


def _agreed(calls: list[ast.Call], part: Any, known: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """What several calls, of which one made a part, say of it; without that of which they say different things."""
    every: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for call in calls:
        for below, words in _described(call, part, known):
            for argument, word in words.items():
                every[below][argument].add(word)
    return {below: {a: min(said) for a, said in words.items() if len(said) == 1} for below, words in every.items()}


@functools.lru_cache(maxsize=1024)
def _assigned(init: CodeType) -> dict[str, list[ast.Call]]:
    """Attribute -> the calls that make it; that of the base class has no name."""
    tree = tree_of(init)
    found: dict[str, list[ast.Call]] = defaultdict(list)
    local: dict[str, list[ast.expr]] = defaultdict(list)
    nodes = [] if tree is None else [*ast.walk(tree)]
    assigned = [pair for node in nodes for pair in _pairs(node)]
    for target, value in assigned:
        if isinstance(target, ast.Name):
            local[target.id].append(value)
    found[""] = [node for node in nodes if isinstance(node, ast.Call) and _of_base(node)]
    for target, value in assigned:
        if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
            for made in _choices(value):
                one = local[made.id] if isinstance(made, ast.Name) else [made]
                found[target.attr] += [call for call in one if isinstance(call, ast.Call)]
    return dict(found)


def _pairs(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    """What is assigned to what: ``a, b = c, d`` is two assignments."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    value = node.value if isinstance(node, (ast.Assign, ast.AnnAssign)) else None
    for target in targets if value is not None else ():
        if isinstance(target, ast.Tuple):
            several = isinstance(value, ast.Tuple) and len(value.elts) == len(target.elts)
            yield from zip(target.elts, value.elts, strict=True) if several else ()  # type: ignore[union-attr]
        else:
            yield target, value  # type: ignore[misc]


def _of_base(call: ast.Call) -> bool:
    """Whether this is ``super().__init__(...)``."""
    owner = call.func.value if isinstance(call.func, ast.Attribute) and call.func.attr == "__init__" else None
    return isinstance(owner, ast.Call) and _last(owner.func) == "super"


def _choices(value: ast.expr | None) -> Iterator[ast.expr]:
    """``a if c else b`` is a or b."""
    if isinstance(value, ast.IfExp):
        yield from _choices(value.body)
        yield from _choices(value.orelse)
    elif value is not None:
        yield value


def _base(kind: type) -> type | None:
    return next((k for k in kind.__mro__[1:] if "__init__" in vars(k)), None)


def _described(call: ast.Call, part: Any, known: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, str]]]:
    """What the arguments of a call are called, and of those inside it that make the parts of a container."""
    if isinstance(part, nn.Parameter):
        inner = [n for n in ast.walk(call) if isinstance(n, ast.Call) and _last(n.func) in _MAKERS]
        if len(inner) == 1:
            yield "", {str(i): word for i, e in enumerate(inner[0].args) if (word := word_of(e))}
        return
    if isinstance(part, nn.Module) and type(part).__init__ in (nn.Sequential.__init__, nn.ModuleList.__init__):
        parts = [*part._modules.values()]
        for number, made in _listed(call, len(parts)):
            for below, words in _described(made, parts[number], known):
                yield f".{number}{below}", words
        return
    kind = part if isinstance(part, type) else type(part) if isinstance(part, nn.Module) else None
    if kind is not None:
        yield "", _arguments(call, kind, known)


_MAKERS = frozenset({"zeros", "ones", "empty", "randn", "rand", "full"})


def _last(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""


def _listed(call: ast.Call, count: int) -> Iterator[tuple[int, ast.Call]]:
    """The calls that make the parts of a container, by number."""
    parts = call.args[0].elts if len(call.args) == 1 and isinstance(call.args[0], ast.List) else call.args
    only = parts[0].value if len(parts) == 1 and isinstance(parts[0], ast.Starred) else call.args[0] if call.args else None
    if isinstance(only, (ast.ListComp, ast.GeneratorExp)):
        yield from ((number, only.elt) for number in range(count) if isinstance(only.elt, ast.Call))
    elif not any(isinstance(part, ast.Starred) for part in parts) and len(parts) == count:
        yield from ((number, part) for number, part in enumerate(parts) if isinstance(part, ast.Call))


def _arguments(call: ast.Call, kind: type, known: Mapping[str, Any]) -> dict[str, str]:
    """Argument of a class -> what it is called where the class is called."""
    made = _resolved(call.func, known)
    if isinstance(made, FunctionType):
        return _through(call, made, kind)
    if isinstance(made, type) and not issubclass(kind, made):
        return {}  # something else was put in its place since
    sure = _of_base(call) or isinstance(made, type)
    words = {k.arg: word for k in call.keywords if k.arg and (word := word_of(k.value))}
    if isinstance(call.func, ast.Name) and made is None:
        words["layer"] = call.func.id
    layer = next((k for k in kind.__mro__ if k.__module__.startswith("torch.nn.") and k is not nn.Module), kind)
    for own in dict.fromkeys((kind, layer)):
        names = _parameters(own)
        for number, expression in enumerate(call.args[: None if sure else SURE]):
            if isinstance(expression, ast.Starred):
                break
            if number < len(names) and (word := word_of(expression)):
                words.setdefault(names[number], word)
    return words


def _through(call: ast.Call, function: FunctionType, kind: type) -> dict[str, str]:
    """The same through a function that does nothing but make the part: ``conv3x3(planes, width, stride)``."""
    tree = tree_of(inspect.unwrap(function).__code__)
    returned = tree.body[-1] if tree is not None else None
    if not isinstance(returned, ast.Return) or not isinstance(returned.value, ast.Call):
        return {}
    names = _parameters(function)
    given = dict(zip(names, call.args, strict=False)) | {k.arg: k.value for k in call.keywords if k.arg}
    inner = _arguments(returned.value, kind, function.__globals__) if _direct(returned.value, function, kind) else {}
    passed = {argument: given[word] for argument, word in inner.items() if word in given}
    return {argument: word for argument, expression in passed.items() if (word := word_of(expression))}


def _direct(call: ast.Call, function: FunctionType, kind: type) -> bool:
    made = _resolved(call.func, function.__globals__)
    return isinstance(made, type) and issubclass(kind, made)


def _resolved(function: ast.expr, known: Mapping[str, Any]) -> Any:
    """The global that an expression names, if it is one."""
    if isinstance(function, ast.Name):
        return known.get(function.id)
    if isinstance(function, ast.Attribute):
        owner = _resolved(function.value, known)
        return vars(owner).get(function.attr) if isinstance(owner, ModuleType) else None  # which imports nothing
    return None


def _parameters(made: Any) -> list[str]:
    """What a class or function takes by place."""
    function: Any = getattr(made, "__init__", None) if isinstance(made, type) else made
    code = getattr(inspect.unwrap(function), "__code__", None)
    names = [] if code is None else [*code.co_varnames[: code.co_argcount]]
    return names[1:] if isinstance(made, type) else names
