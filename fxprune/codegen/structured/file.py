"""The structured file: classes as the original's, each with its forward; what reads the weights stands below them."""

from __future__ import annotations

import ast

from torch import fx

from fxprune.codegen.annotations import annotate_inputs, loosen, tensor_inputs
from fxprune.codegen.assembly import Written, assembled, model_name
from fxprune.codegen.mode_method import train_method
from fxprune.codegen.names import Names
from fxprune.codegen.records import Records
from fxprune.codegen.source import check_graph
from fxprune.codegen.structured.asserted import say_conditions
from fxprune.codegen.structured.classes import HOLDER, Classes
from fxprune.codegen.structured.folding import fold
from fxprune.codegen.structured.lists import take_lists
from fxprune.codegen.structured.paths import Paths
from fxprune.codegen.structured.printer import lines_of
from fxprune.codegen.structured.simplify import simplified
from fxprune.codegen.structured.tables import Tables
from fxprune.errors import PruneError
from fxprune.tracing.patching import unpatched

__all__ = ["structured_source"]


@unpatched()
def structured_source(slim: fx.GraphModule, stem: str = "slim") -> str:
    """Return the source of `slim` in classes.

    Raises:
        PruneError: something in it cannot be written, or its nodes do not tell which module's call they are of.
    """
    check_graph(slim)
    if "classes" not in slim.meta or "example" not in slim.meta:
        raise PruneError("the graph does not tell which module's call its nodes are of: prune() and trace() record that")
    inputs = [node for node in slim.graph.nodes if node.op == "placeholder"]
    if starred := [str(node.target) for node in inputs if str(node.target).startswith("*")]:
        raise PruneError(f"forward takes any number of arguments: {starred[0]}")
    names = Names({str(node.target) for node in inputs})
    names.declared.add(HOLDER)
    name = model_name(slim, names)
    whole = simplified(slim)
    paths = Paths(whole, names)
    folded = fold(whole)
    folded[""] = whole.graph
    take_lists(whole, folded)
    records = Records(names)
    classes = Classes(whole, folded, names, records, name)
    classes.write_all()
    paths.handed = classes.handing.handed
    _complete(classes.definitions[-1], paths, tensor_inputs(slim), whole.graph)
    tables = Tables(names)
    lines: list[str] = []
    for definition in classes.definitions:
        loosen(definition, HOLDER)
        say_conditions(definition)
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
        annotate_inputs(method, tensors)
    if lines := train_method(paths):
        own.body += ast.parse("\n".join(["class A:", *lines])).body[0].body  # type: ignore[attr-defined]
