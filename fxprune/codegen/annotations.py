"""Types in generated classes: what a strict type checker needs beside the statements themselves."""

from __future__ import annotations

import ast
from collections.abc import Collection
from typing import Any, cast

import torch
from torch import fx

__all__ = ["annotate_inputs", "loosen", "tensor_inputs"]

_CONTAINERS = ("nn.ModuleList", "nn.ModuleDict", "nn.Sequential", "nn.ParameterList")


def annotate_inputs(method: ast.FunctionDef, tensors: Collection[str]) -> None:
    """Annotate the arguments of a model's forward, and what it returns.

    Args:
        tensors: the arguments that are tensors.
    """
    method.returns = ast.Name("Any")
    for argument in method.args.args[1:]:
        argument.annotation = ast.Name("torch.Tensor" if argument.arg in tensors else "Any")
    for starred in (method.args.vararg, method.args.kwarg):
        if starred is not None:
            starred.annotation = ast.Name("Any")


def tensor_inputs(slim: fx.GraphModule) -> set[str]:
    """The inputs that are tensors, as far as the recorded example tells."""
    args, named = slim.meta.get("example", ((), {}))
    nodes = [node for node in slim.graph.nodes if node.op == "placeholder"]
    values = [*args, *named.values()]
    return {str(n.target) for n, v in zip(nodes, values, strict=False) if isinstance(v, torch.Tensor) and not n.args}


def loosen(definition: ast.ClassDef, holder: str) -> None:
    """Annotate the containers of whose parts the methods ask parts: nn.Module does not tell their types.

    Args:
        holder: the class of what only holds others.
    """
    asked, opened = set(), set()
    for node in ast.walk(definition):
        if isinstance(node, ast.Attribute):
            owner: Any = node.value
            while isinstance(owner, (ast.Subscript, ast.Attribute)) and not _own(owner):
                owner = owner.value
            if _own(owner):
                asked.add(owner.attr)
        inner: Any = node.value if isinstance(node, ast.Subscript) else node.iter if isinstance(node, ast.For) else None
        if _own(inner):
            opened.add(inner.attr)
        while isinstance(inner, (ast.Subscript, ast.Attribute)) and not _own(inner):
            inner = inner.value
            asked |= {inner.attr} if _own(inner) else set()
    first = definition.body[0]
    assert isinstance(first, ast.FunctionDef)
    for number, statement in enumerate(first.body):
        if not isinstance(statement, ast.Assign) or not _own(statement.targets[0]):
            continue
        value, target = statement.value, cast(Any, statement.targets[0])
        called = ast.unparse(value.func) if isinstance(value, ast.Call) else ""
        given = isinstance(value, (ast.Name, ast.IfExp))  # an argument, or a part that only some have
        loose = given or called in (holder, "attach", *_CONTAINERS)
        if (target.attr in asked and loose) or (target.attr in opened and given):
            first.body[number] = ast.AnnAssign(target, ast.Name("Any"), statement.value, simple=0)


def _own(node: Any) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
