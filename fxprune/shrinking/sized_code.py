"""A method of the user's own class in which some expressions are numbers: sizes that the code reads off nothing that could be
set (``C // self.num_heads``, where heads keep fewer channels than that).
"""

from __future__ import annotations

import ast
import copy
import functools
import importlib
import inspect
import linecache
from collections.abc import Mapping
from types import CodeType, FunctionType
from typing import Any

from torch import nn

from fxprune.tracing.words import trees

__all__ = ["SizedMethod", "method_of", "tree_of"]


class SizedMethod:
    """Stands for a method of one module, in its ``__dict__``; copied and pickled with the module.

    Attributes:
        source: the method's code, with the numbers in it.
        home: module, class and method by name: where the original is.
    """

    def __init__(self, part: nn.Module, source: str, home: tuple[str, str, str]) -> None:
        self.part, self.source, self.home = part, source, home
        self._function: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._function is None:
            self._function = _compiled(self.source, self.home)
        return self._function(self.part, *args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(getattr(_class_of(self.home), self.home[2]).__get__(self.part))

    @property
    def __name__(self) -> str:
        return self.home[2]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_function": None}

    def __repr__(self) -> str:
        return f"<{'.'.join(self.home[1:])} of {self.home[0]}, with sizes of this model>"


def _class_of(home: tuple[str, str, str]) -> Any:
    found: Any = importlib.import_module(home[0])
    return functools.reduce(getattr, home[1].split("."), found)


def _compiled(source: str, home: tuple[str, str, str]) -> Any:
    kind = _class_of(home)
    original = inspect.unwrap(vars(kind)[home[2]])
    name = f"<{home[1]}.{home[2]} with sizes>"
    maker = ast.parse(f"def _make(__class__):\n    pass\n    return {home[2]}")
    body: Any = maker.body[0]
    body.body[0] = ast.parse(source).body[0]
    space: dict[str, Any] = {}
    exec(compile(ast.fix_missing_locations(maker), name, "exec"), original.__globals__, space)
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    return space["_make"](kind)


def method_of(module: nn.Module, code: CodeType) -> tuple[type, str] | None:
    """The class and name of the method of a module that has this code, as a whole or in a comprehension."""
    for kind in type(module).__mro__:
        for name, value in vars(kind).items():
            if isinstance(value, FunctionType) and _has(inspect.unwrap(value).__code__, code):
                return kind, name
    return None


def _has(code: CodeType, inner: CodeType) -> bool:
    return code is inner or any(isinstance(part, CodeType) and _has(part, inner) for part in code.co_consts)


def tree_of(kind: type, name: str) -> ast.FunctionDef | None:
    """The syntax tree of a method, with the positions that it has in its file; None where its code cannot be read, or
    needs names of a function around it.
    """
    function = inspect.unwrap(vars(kind)[name])
    code = function.__code__
    if set(code.co_freevars) - {"__class__"} or "<locals>" in kind.__qualname__ or _mangled(code, kind):
        return None
    tree = trees.tree_of(code)
    return tree if tree is not None and tree.name == name else None


def _mangled(code: CodeType, kind: type) -> bool:
    prefix = f"_{kind.__name__.lstrip('_')}__"
    return any(name.startswith(prefix) for name in (*code.co_names, *code.co_varnames))


def with_expressions(tree: ast.FunctionDef, new: Mapping[ast.AST, ast.AST]) -> str:
    """The code of a method in which expressions are replaced."""
    memo: dict[int, Any] = {}
    for old, made in sorted(new.items(), key=lambda pair: len(ast.unparse(pair[0]))):  # the inner ones first
        memo[id(old)] = copy.deepcopy(made, dict(memo))
    return ast.unparse(copy.deepcopy(tree, memo))
