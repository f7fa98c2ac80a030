"""A folded call as the code generators of the flat file take it: a module with a graph, whose inner calls are written."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from fxprune.codegen.body import statements
from fxprune.codegen.expressions import Expressions
from fxprune.codegen.leaves import Written
from fxprune.codegen.literals import literal
from fxprune.codegen.names import Names
from fxprune.codegen.records import Records
from fxprune.codegen.schedule import Schedule
from fxprune.codegen.structured.chains import find_loops
from fxprune.codegen.structured.growth import find_growth
from fxprune.codegen.structured.named_numbers import NamedFloat, NamedInt, constants_of, name_numbers, shown
from fxprune.codegen.tree import Tree

__all__ = ["Part", "Text"]


NEST = 3  # how many calls may stand inside one another


class Part(nn.Module):
    """The modules below one module, with the graph of its call; what is folded below is written as one call.

    Attributes:
        graph: names are those below the module.
        meta: nothing.
    """

    def __init__(self, module: nn.Module, path: str, graph: fx.Graph, inner: Mapping[str, str]) -> None:
        """
        Args:
            inner: folded modules below this one, by their names in the whole model -> their constructor calls.
        """
        super().__init__()
        seen = _view(module, path, inner, own=True)
        for table in ("_modules", "_parameters", "_buffers"):
            self.__dict__[table] = getattr(seen, table)
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor):
                self.__dict__[name] = value
        self._non_persistent_buffers_set = module._non_persistent_buffers_set
        self.training = module.training
        self.graph = graph
        self.meta: dict[str, object] = {}
        find_growth(graph, self)
        find_loops(graph, self)
        name_numbers(graph)


def _view(module: nn.Module, path: str, inner: Mapping[str, str], own: bool = False) -> nn.Module:
    if path in inner and not own:
        return Written(inner[path], module)
    prefix = f"{path}." if path else ""
    if not any(name.startswith(prefix) for name in inner):
        return module
    new = nn.Module() if type(module) is not nn.Sequential else nn.Sequential()
    new.__dict__.update({k: v for k, v in module.__dict__.items() if k not in ("_modules", "meta", "graph")})
    new.__dict__["_modules"] = {
        name: child if child is None else _view(child, f"{prefix}{name}", inner) for name, child in module._modules.items()
    }
    return new


class Text:
    """The source of a part.

    Attributes:
        tree: its modules.
        init: what ``__init__`` assigns, statement by statement.
        body: the statements of forward.
        arguments: the names of forward's arguments -> their annotations.
    """

    def __init__(self, part: Part, names: Names, records: Records, twin: nn.Module | None = None) -> None:
        self.part, self.names, self.records = part, names, records
        self.tree = Tree(part, names, twin)  # type: ignore[arg-type]
        self.schedule = Schedule(part, names, nest=NEST)  # type: ignore[arg-type]
        names.arguments.update(self.schedule.variables.values())
        inputs = [node for node in part.graph.nodes if node.op == "placeholder"]
        self.arguments = {str(n.target): _annotation(n) for n in inputs}
        self.init = [ast.parse(line).body[0] for line in self.tree.assignments()]

    def written_body(self) -> list[ast.stmt]:
        """The statements of forward."""
        expressions = _Worded(self.tree, self.names, self.schedule, self.records)
        lines = statements(self.part, expressions, {n: n.meta["needed"] for n in self.part.graph.nodes})  # type: ignore[arg-type]
        owner: Any = ast.parse("\n".join(["class A:", "    def forward(self):", *lines])).body[0]
        return [constants_of(statement) for statement in owner.body[0].body]


def _annotation(node: fx.Node) -> str:
    if node.meta.get("list"):
        return "list[torch.Tensor]"
    return "torch.Tensor" if node.meta.get("tensor", True) else "Any"


class _Worded(Expressions):
    """Expressions whose numbers keep what they are called."""

    def _render(self, value: Any) -> str | None:
        if isinstance(value, (NamedInt, NamedFloat)):
            return shown(value, literal(value, self.names))
        return super()._render(value)
