"""Statements about parts of a whole model, which is reached by names: ties, frozen parameters, modes."""

from __future__ import annotations

from collections.abc import Collection
from functools import reduce
from typing import Any

from torch import fx, nn

from fxprune.codegen.literals import quoted
from fxprune.codegen.names import Names, is_name
from fxprune.codegen.structured.simplify import Whole
from fxprune.codegen.tree import Tree

__all__ = ["Paths"]


class Paths(Tree):
    """The statements of a `Tree` about ties, frozen parameters and modes, with names that a type checker can follow.

    Attributes:
        handed: names of modules that their owners have from elsewhere: nothing is to be tied there.
    """

    def __init__(self, whole: Whole | fx.GraphModule, names: Names) -> None:
        self.slim: Any = whole
        self.names = names
        self.helpers = set()
        self.called = {str(node.target) for node in whole.graph.nodes if node.op == "call_module"}
        self.read = {str(node.target) for node in whole.graph.nodes if node.op == "get_attr"}
        self.modal = self._modal()
        self.kinds = {}
        self.parts = {}
        self.handed: Collection[str] = ()

    def access(self, path: str, root: str = "self") -> str:
        if not path:
            return root
        owner, _, name = path.rpartition(".")
        if isinstance(reduce(getattr, path.split("."), self.slim), nn.Module):
            return f"{root}.{path}" if not owner and is_name(path) else f"{root}.get_submodule({quoted(path)})"
        here = self.access(owner, root)
        return f"{here}.{name}" if is_name(name) else f"getattr({here}, {quoted(name)})"

    def _assign(self, path: str, value: str) -> str:
        owner, _, name = path.rpartition(".")
        here = self.access(owner)
        module = isinstance(reduce(getattr, path.split("."), self.slim), nn.Module)
        if module and "get_submodule" not in here:  # a type checker knows what stands there, which may be of another class
            return f"{here}.add_module({quoted(name)}, {value})"
        return f"{here}.{name} = {value}" if is_name(name) else f"setattr({here}, {quoted(name)}, {value})"

    def _ties(self) -> list[tuple[str, str]]:
        return [pair for pair in super()._ties() if pair[0] not in self.handed]

    def lines(self) -> list[str]:
        """Statements of ``__init__`` after all parts are made."""
        return [line.strip() for line in (*self._tie_lines(), *self._frozen_lines("", self.slim))]
