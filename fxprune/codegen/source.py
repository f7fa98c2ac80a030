"""The flat form of the generated file: one class, whose forward is one run of statements."""

from __future__ import annotations

import ast
from collections.abc import Sequence

import torch

from fxprune.codegen.annotations import annotate_inputs, loosen, tensor_inputs
from fxprune.codegen.assembly import Written, assembled, model_name
from fxprune.codegen.body import signature, statements
from fxprune.codegen.expressions import Expressions
from fxprune.codegen.mode_method import train_method
from fxprune.codegen.names import Names
from fxprune.codegen.records import Records
from fxprune.codegen.schedule import Schedule
from fxprune.codegen.structured.paths import Paths
from fxprune.codegen.structured.printer import lines_of
from fxprune.codegen.tree import Tree
from fxprune.errors import InputError, PruneError
from fxprune.planning.report import report_of
from fxprune.tracing.graphs.guarded_code import GuardedCode
from fxprune.tracing.patching import unpatched

__all__ = ["check_graph", "source_of"]


@unpatched()
def source_of(slim: torch.fx.GraphModule, stem: str = "slim", note: str = "") -> str:
    """Return the source of a module that needs torch alone and computes what `slim` does.

    Args:
        slim: a traced model; its leaves are torch.nn modules. It is not changed.
        stem: name of the file, for the header.
        note: what the header says of the form.

    Named tuples and dataclasses among the outputs become equal classes of the file; subclasses of dict
    (Hugging Face's ModelOutput) a small dict whose entries are attributes; other objects hold attributes alone.

    Raises:
        InputError: `slim` is no GraphModule.
        PruneError: something in it cannot be written as source that needs torch alone; the message names it.
    """
    check_graph(slim)
    arguments = {str(node.target).lstrip("*") for node in slim.graph.nodes if node.op == "placeholder"}
    names = Names(arguments)
    names.declared.add("Block")
    model = model_name(slim, names)
    tree = Tree(slim, names)
    schedule = Schedule(slim, names)
    names.arguments.update(schedule.variables.values())
    expressions = Expressions(tree, names, schedule, Records(names))
    body = statements(slim, expressions)
    forward = f"    def forward({signature(slim, expressions)}):"
    records = expressions.records.definitions()
    lines = [f"class {model}({tree.base}):", "    def __init__(self) -> None:", *tree.init_lines()]
    lines += [f"        {line}" for line in Paths(slim, names).lines()]
    lines = _formatted([*lines, "", forward, *body, *train_method(tree)], tensor_inputs(slim))
    parts = {name for path in (*tree.called, *tree.read) for name in path.split(".")}
    helpers = {helper: helper for helper in tree.helpers}
    return assembled(slim, names, stem, Written(model, records, helpers, lines, tree.mode_lines(), parts, note=note))


def _formatted(lines: Sequence[str], tensors: set[str]) -> list[str]:
    """The lines of a class, typed and laid out as a formatter would; two empty lines follow it."""
    spaced = []
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        margin = following[: len(following) - len(following.lstrip())]
        spaced.append(line if line or following.strip() == "else:" else f"{margin}...")  # which is printed as an empty line
    parsed = ast.parse("\n".join(spaced)).body[0]
    assert isinstance(parsed, ast.ClassDef)
    parsed.body = [statement for statement in parsed.body if isinstance(statement, ast.FunctionDef)]
    forward = next(m for m in parsed.body if isinstance(m, ast.FunctionDef) and m.name == "forward")
    annotate_inputs(forward, tensors)
    loosen(parsed, "Block")
    return lines_of([parsed])


def check_graph(slim: torch.fx.GraphModule) -> None:
    """
    Raises:
        InputError: `slim` is no GraphModule.
        PruneError: its graph flattens its inputs.
    """
    if not isinstance(slim, torch.fx.GraphModule):
        pruned = [n for n, m in slim.named_modules() if isinstance(m, torch.fx.GraphModule)] if report_of(slim) else []
        hint = f"; save its pruned submodules one by one, as slim.get_submodule({pruned[0]!r})" if pruned else ""
        report = report_of(slim)
        if report is not None and report.own_class is not None:
            hint = ", which is in its own class: fxprune.store writes that"
        raise InputError(f"expected a torch.fx.GraphModule, as prune() and trace() return, got {type(slim).__name__}{hint}")
    if type(slim.graph._codegen) not in (torch.fx.graph.CodeGen, GuardedCode):
        raise PruneError(
            f"graphs that flatten their inputs ({type(slim.graph._codegen).__name__}, from torch.export) "
            "cannot be saved: use a graph from prune() or trace()"
        )
