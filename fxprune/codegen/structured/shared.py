"""Modules that have several names: each is made once, by the smallest owner of them all, and handed to the parts below it.

before                                          after
self.block1 = Block()                           shared_bias = Bias(8)
self.block2 = Block()                           self.block1 = Block(shared_bias)
self.block2.bias = self.block1.bias             self.block2 = Block(shared_bias)
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from fxprune.codegen.names import Names, is_name
from fxprune.codegen.structured.aliases import owners
from fxprune.codegen.structured.plain import SHARED
from fxprune.codegen.structured.simplify import Whole
from fxprune.codegen.tree import Tree

__all__ = ["Handing"]


@dataclass(frozen=True)
class _Handed:
    """A module that its owner makes and hands to others.

    Attributes:
        mark: what stands for it in texts.
        first: its first name, below the owner.
        call: what makes it.
    """

    mark: str
    first: str
    call: str


class Handing:
    """Which modules are handed, and what stands for them in texts.

    Args:
        made: folded modules -> what stands for the calls that make them.
        classes: folded modules whose classes have statements of their own.
        names: collects the imports of the calls.

    Attributes:
        inner: names of such modules -> what stands there.
        handed: those that are parts no more but are given, all names but the first.
        helpers: what `Tree.helpers` says of them.
    """

    def __init__(
        self, whole: Whole, folded: Mapping[str, fx.Graph], made: Mapping[str, str], classes: Collection[str], names: Names
    ) -> None:
        self.names, self.others, self.classes = names, whole.aliases.others, classes
        self.inner: dict[str, str] = {}
        self.handed: set[str] = set()
        self.helpers: set[str] = set()
        self.owned: dict[str, list[_Handed]] = defaultdict(list)
        self.variables: dict[str, str] = {}
        called = {f"{path}.{n.target}".strip(".") for path, g in folded.items() for n in g.nodes if n.op == "call_module"}
        for number, (first, others) in enumerate(self.others.items()):
            if called.isdisjoint((first, *others)):
                continue  # its parts are called, if anything is
            call = made.get(first) or self._call(whole.get_submodule(first))
            owner = self._owner(first)
            mark = f"{SHARED}{number}"
            if owner is None:  # one for each name, which the model makes one
                self.inner.update(dict.fromkeys((first, *others), call))
                continue
            below = first.removeprefix(owner).removeprefix(".")
            self.owned[owner].append(_Handed(mark, below, call))
            self.inner.update(dict.fromkeys((first, *others), mark))
            self.handed.update(others)
            if is_name(below):
                self.inner[first] = call

    def _owner(self, first: str) -> str | None:
        """The smallest module whose class can make a module for all of its names; None where none can."""
        names = (first, *self.others[first])
        around = set.intersection(*({*owners(name), ""} for name in names))
        owner = max(around.intersection(self.classes), key=len, default=None)
        handed = {path for name in names for path in owners(name)}.intersection(self.others)
        for other in sorted(handed, key=len, reverse=True):
            if owner is not None and not f"{owner}.".startswith(f"{other}."):  # where that is made, what it holds is known
                made_by = self._owner(other)
                owner = None if made_by is None else min(owner, made_by, key=len)
        return owner

    def makes(self, path: str) -> set[str]:
        """The modules that a module makes for others."""
        return {f"{path}.{handed.first}".strip(".") for handed in self.owned.get(path, ())}

    def _call(self, module: nn.Module) -> str:
        """The call that makes a layer."""
        alone: Any = nn.Module()
        alone.part, alone.graph = module, fx.Graph()
        alone.graph.call_module("part")
        tree = Tree(alone, self.names)
        self.helpers |= tree.helpers
        return tree.parts["part"]

    def resolved(self, path: str, statements: Sequence[ast.stmt], made: Callable[[ast.expr], ast.expr]) -> list[ast.stmt]:
        """The statements of ``__init__`` of a module, with those that make what it hands to others.

        Args:
            made: fills in an expression, as those of the statements are.
        """
        shown: dict[str, ast.expr] = {}
        first: list[ast.stmt] = []
        used: Counter[str] = Counter()
        for handed in self.owned.get(path, ()):
            if is_name(handed.first):
                shown[handed.mark] = ast.Attribute(ast.Name("self"), handed.first, ast.Load())
                continue
            word = next((word for word in reversed(handed.first.split(".")) if is_name(word)), "part")
            used[word] += 1
            wanted = f"shared_{word}{f'_{used[word]}' if used[word] > 1 else ''}"
            if wanted not in self.variables:
                self.variables[wanted] = self.names.declare(wanted)
            shown[handed.mark] = variable = ast.Name(self.variables[wanted])
            call = made(ast.parse(handed.call, mode="eval").body)
            first.append(ast.Assign([variable], call))
        marks = _Shown(shown)
        return [marks.visit(statement) for statement in (*first, *statements)] if shown else [*statements]


class _Shown(ast.NodeTransformer):
    """Puts what an owner calls the modules that it hands to others in the place of their marks."""

    def __init__(self, shown: Mapping[str, ast.expr]) -> None:
        self.shown = shown

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self.shown.get(node.id, node)
