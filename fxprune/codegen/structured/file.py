"""The structured file: classes as the original's, each with its forward; what reads the weights stands below them."""

from __future__ import annotations

import ast
from typing import Any

import torch
from torch import fx

from fxprune.codegen.assembly import Written, assembled, model_name
from fxprune.codegen.mode_method import train_method
from fxprune.codegen.names import Names
from fxprune.codegen.records import Records
from fxprune.codegen.source import check_graph
from fxprune.codegen.structured.classes import HOLDER, Classes
from fxprune.codegen.structured.folding import fold
from fxprune.codegen.structured.paths import Paths
from fxprune.codegen.structured.printer import lines_of
from fxprune.codegen.structured.simplify import simplified
from fxprune.codegen.structured.tables import Tables
from fxprune.tracing.patching import unpatched

__all__ = ["structured_source"]


@unpatched()
def structured_source(slim: fx.GraphModule, stem: str = "slim") -> str | None:
    """Return the source of `slim` in classes; None where its nodes do not tell which module's call they are of.

    Raises:
        PruneError: something in it cannot be written.
    """
    check_graph(slim)
    if "classes" not in slim.meta or "example" not in slim.meta or not any(n.meta.get("calls") for n in slim.graph.nodes):
        return None
    inputs = [node for node in slim.graph.nodes if node.op == "placeholder"]
    if any(str(node.target).startswith("*") for node in inputs):
        return None
    names = Names({str(node.target) for node in inputs})
    names.declared.add(HOLDER)
    name = model_name(slim, names)
    whole = simplified(slim)
    paths = Paths(whole, names)
    folded = fold(whole)
    folded[""] = whole.graph
    records = Records(names)
    classes = Classes(whole, folded, names, records, name)
    classes.write_all()
    _complete(classes.definitions[-1], paths, _inputs(slim), whole.graph)
    tables = Tables(names)
    lines: list[str] = []
    for definition in classes.definitions:
        _loosen(definition)
        lines += lines_of([tables.visit(definition)])
    helpers = {helper: {"Block": HOLDER}.get(helper, helper) for helper in classes.helpers}
    parts = {word for path, _ in whole.named_modules() for word in path.split(".")}
    written = Written(name, records.definitions(), helpers, lines, paths.mode_lines(), parts, tables.lines())
    return assembled(slim, names, stem, written)


def _complete(own: ast.ClassDef, paths: Paths, tensors: set[str], graph: fx.Graph) -> None:
    """What the model's own class has beside those of its parts."""
    first = own.body[0]
    assert isinstance(first, ast.FunctionDef)
    first.body += ast.parse("\n".join(paths.lines())).body
    given = [node.args[0] for node in graph.nodes if node.op == "placeholder" and node.args]
    defaults = [ast.parse(repr(value), mode="eval").body for value in given]
    for method in own.body[1:]:
        assert isinstance(method, ast.FunctionDef)
        method.args.defaults = defaults
        for argument in method.args.args[1:]:
            argument.annotation = ast.Name("torch.Tensor" if argument.arg in tensors else "Any")
    if lines := train_method(paths):
        own.body += ast.parse("\n".join(["class A:", *lines])).body[0].body  # type: ignore[attr-defined]


def _inputs(slim: fx.GraphModule) -> set[str]:
    """The inputs that are tensors."""
    args, named = slim.meta.get("example", ((), {}))
    nodes = [node for node in slim.graph.nodes if node.op == "placeholder"]
    values = [*args, *named.values()]
    return {str(n.target) for n, v in zip(nodes, values, strict=False) if isinstance(v, torch.Tensor) and not n.args}


def _loosen(definition: ast.ClassDef) -> None:
    """Annotate the containers of whose parts forward asks parts: nn.Module does not tell their types."""
    asked = set()
    for node in ast.walk(definition):
        if isinstance(node, ast.Attribute):
            owner: Any = node.value
            while isinstance(owner, (ast.Subscript, ast.Attribute)) and not _own(owner):
                owner = owner.value
            if _own(owner):
                asked.add(owner.attr)
    first = definition.body[0]
    assert isinstance(first, ast.FunctionDef)
    for number, statement in enumerate(first.body):
        if not isinstance(statement, ast.Assign) or not _own(statement.targets[0]):
            continue
        called = ast.unparse(statement.value.func) if isinstance(statement.value, ast.Call) else ""
        loose = called in (HOLDER, "attach", "nn.ModuleList", "nn.ModuleDict", "nn.Sequential", "nn.ParameterList")
        if statement.targets[0].attr in asked and loose:  # type: ignore[attr-defined]
            target: Any = statement.targets[0]
            first.body[number] = ast.AnnAssign(target, ast.Name("Any"), statement.value, simple=0)


def _own(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
