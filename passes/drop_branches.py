"""Residual branches go: a sum becomes what remains of it, and all that only the branch used leaves the graph and the model."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import fx, nn

from fxprune.analysis.branches import Branch
from fxprune.errors import PruneError
from fxprune.passes.base import Context, Pass, PassResult
from fxprune.state import named_parts, named_tensors

__all__ = ["DropBranches"]


@dataclass(frozen=True)
class DropBranches(Pass):
    """``y = conv2(relu(conv1(x))); add = y + x; z = relu_(add) -> add = x.clone(); z = relu_(add)``.

    The copy stands there where a later node may write into the sum; else its readers read ``x``.
    """

    name: ClassVar[str] = "drop-branches"
    optional: ClassVar[bool] = True
    shapes: ClassVar[Literal["open"]] = "open"  # channels have yet to go

    def run(self, module: fx.GraphModule, context: Context) -> PassResult:
        analysis = context.cut.analysis
        gone = [b for b in analysis.branches.all.values() if b.id in analysis.without_branches]
        if not gone:
            return PassResult.of()
        nodes = {old.name: new for new, old in context.origin.items()}
        copies = sum(_replaced(nodes[branch.add], branch, module.graph, context) for branch in gone)
        lost = [node for node in module.graph.nodes if node in context.origin and _name(node, context) in analysis.dropped]
        leaves = {str(node.target) for node in lost if node.op == "call_module"}
        for node in reversed(lost):
            module.graph.erase_node(node)
            del context.origin[node]
        before = len(named_tensors(module, once=True))
        _forget(module, analysis.lost_tensors, leaves)
        tensors = before - len(named_tensors(module, once=True))
        return PassResult.of(branches_removed=len(gone), nodes_removed=len(lost), tensors_removed=tensors, copies_made=copies)

    def ensures(self, module: fx.GraphModule, context: Context) -> None:
        left = named_tensors(module).keys() & context.cut.analysis.lost_tensors
        if left:
            raise PruneError(f"{min(left)!r} is still there, although only a branch that goes reads it")


def _name(node: fx.Node, context: Context) -> str:
    return context.origin[node].name


def _replaced(add: fx.Node, branch: Branch, graph: fx.Graph, context: Context) -> bool:
    """Put what remains in the place of a sum; whether that is a copy, under the name of the sum."""
    analysis, old = context.cut.analysis, context.origin[add]
    if branch.add in analysis.dropped:  # it lies in another branch that goes
        return False
    names = [getattr(operand, "name", "") for operand in old.args]
    stream: Any = add.args[names.index(branch.stream)]
    copy = analysis.branches.must_copy(branch)
    if copy:
        with graph.inserting_before(add):
            stream = graph.call_method("clone", (stream,))
        stream.meta = dict(add.meta)
        context.origin[stream] = old
    name = add.name
    add.replace_all_uses_with(stream)
    graph.erase_node(add)
    del context.origin[add]
    if copy:
        stream.name = name
    return copy


def _forget(module: fx.GraphModule, tensors: Collection[str], leaves: Collection[str]) -> None:
    """Take tensors and layers out of a model, under all of their names, and the containers that are empty then."""
    called = {str(node.target) for node in module.graph.nodes if node.op == "call_module"}
    flags = {str(node.target).rpartition(".")[0] for node in module.graph.nodes if node.op == "get_attr"}
    parts, known = dict(named_parts(module)), named_tensors(module)
    stay = {id(parts[name]) for name in called} | {id(parts[name]) for name in flags if name in parts}
    layers = {id(parts[name]) for name in leaves} - stay
    lost = {id(known[name]) for name in tensors}

    def visit(part: nn.Module) -> bool:
        """Whether a part is empty now and was not before."""
        held = len(part._modules) + len(part._parameters) + len(part._buffers)
        if id(part) in layers:
            return True
        for table in (part._parameters, part._buffers):
            for name in [n for n, t in table.items() if t is not None and id(t) in lost]:
                del table[name]
                part._non_persistent_buffers_set.discard(name)
        for name in [n for n, child in part._modules.items() if child is not None and visit(child)]:
            del part._modules[name]
        left = len(part._modules) + len(part._parameters) + len(part._buffers)
        return held > 0 and not left and id(part) not in stay

    visit(module)
    there = dict(named_parts(module))
    if "modes" in module.meta:
        module.meta["modes"] = {
            mode: {n: f for n, f in kept.items() if n in there} for mode, kept in module.meta["modes"].items()
        }
