"""Residual branches that can go as a whole: ``y = x + f(x)`` becomes ``y = x``, and all that only ``f`` used goes with it.

What counts is the graph: of a sum, the operand that comes from the other one (``f``), or, where both come from one value by
ways of their own (``down(x) + f(x)``), that which comes by more layers. Without it the other operand must be what the sum is:
of its shape and dtype. What is needed no more is found by `fxprune.analysis.needed`, so that a value which is read elsewhere
stays, with all that it is computed from.
"""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property

from torch import fx, nn

from fxprune.analysis.needed import Needs, draws_always, keeps_statistics
from fxprune.analysis.sums import Sums
from fxprune.tracing.contexts.regions import OUTSIDE, region_of, same_region
from fxprune.tracing.tracer import Traced
from fxprune.tracing.values.whole import is_whole

__all__ = ["Branch", "Branches"]


@dataclass(frozen=True, eq=False)
class Branch:
    """One operand of a sum, without which the sum is the other operand.

    Attributes:
        id: the module in which all its layers lie, as ``"layer1.0"`` or ``"blocks.3.mlp"``; with a counter where several do.
        add: name of the node that adds (or subtracts) it.
        stream: name of the node that remains.
        operand: name of the node that goes, with all that only it needs.
        nodes: names of these.
        tensors: parameters and buffers that nothing else reads.
        macs: multiply-accumulates that go with it alone, for the whole batch.
        params: parameters that go with it alone.
        reason: why it stays; empty if it may go.
    """

    id: str
    add: str
    stream: str
    operand: str
    nodes: frozenset[str]
    tensors: tuple[str, ...]
    macs: int
    params: int
    reason: str = ""


class Branches:
    """The branches of one traced model.

    Args:
        ignore: patterns of names of modules or parameters that stay.
    """

    def __init__(self, traced: Traced, ignore: Iterable[str] = (), taken: Collection[str] = ()) -> None:
        self.traced, self.needs, self.sums = traced, Needs(traced), Sums(traced)
        self.by_name = {n.name: n for n in traced.graph.nodes}
        self._ignore, self._taken = tuple(ignore), taken

    @cached_property
    def all(self) -> dict[str, Branch]:
        """Branches by id, in the order of the graph; those that have a reason to stay, too."""
        found: dict[str, Branch] = {}
        for node in self.needs.nodes:
            sides = self.sums.sides(node)
            branch = self._branch(node, *sides, {*found, *self._taken}) if sides else None
            if branch is not None:
                found[branch.id] = branch
        return found

    def dropped(self, branches: Iterable[str]) -> frozenset[str]:
        """Names of the nodes that nothing needs when these branches go, sums excepted: they are what remains of them."""
        found = [self.all[name] for name in branches]
        if not found:
            return frozenset()
        without = {self.by_name[b.add]: self.by_name[b.operand] for b in found}
        lost = self.needs.needed() - self.needs.needed(without)
        return frozenset(node.name for node in lost)

    def tensors_of(self, nodes: Collection[str]) -> set[str]:
        """Parameters and buffers that these nodes read and no others do."""
        inside, outside = set[str](), set[str]()
        for node in self.needs.nodes:
            (inside if node.name in nodes else outside).update(self._read(node))
        return inside - outside

    def must_copy(self, branch: Branch) -> bool:
        """Whether the sum must become a copy of what remains: a sum has memory of its own, which may be written into, or handed
        out although what remains is an input or a parameter of the model."""
        add, stream = self.by_name[branch.add], self.by_name[branch.stream]
        memory, nodes = self.needs.memory, self.needs.nodes
        if stream in self.needs.written(add):  # x += f(x): what comes later writes into x as it is
            return False
        later = nodes[nodes.index(add) + 1 :]
        if any(memory[n] == memory[add] for node in later for n in self.needs.written(node)):
            return True
        outside = {memory[n] for n in nodes if n.op in ("placeholder", "get_attr")}
        handed_out = {memory[n] for node in later if node.op == "output" for n in node.all_input_nodes}
        return memory[stream] in outside and memory[add] in handed_out

    # -- what goes with it -------------------------------------------------------------------------------------------

    def _branch(self, add: fx.Node, stream: fx.Node, operand: fx.Node, taken: Collection[str]) -> Branch | None:
        """The branch of a sum; None if no layer lies in it."""
        inside, macs = self.sums.between(stream, operand), self.sums.macs
        if not any(n.name in macs for n in inside):
            return None
        needed = self.needs.needed({add: operand})
        lost = self.needs.needed() - needed
        names = frozenset(n.name for n in lost)
        tensors = self.tensors_of(names)
        layers = {t for n in inside for t in self._read(n)}
        known = self.traced.tensors
        return Branch(
            id=self._named(tensors or layers, add, taken),
            add=add.name,
            stream=stream.name,
            operand=operand.name,
            nodes=names,
            tensors=tuple(n for n in known if n in tensors),
            macs=sum(macs.get(name, 0) for name in names),
            params=sum(known[n].numel() for n in tensors if isinstance(known[n], nn.Parameter)),
            reason=self._why_not(add, stream, operand, needed, lost) or self._spared(tensors),
        )

    def _read(self, node: fx.Node) -> list[str]:
        """Parameters and buffers that a node reads by itself."""
        names = self.traced.names
        if node.op == "get_attr":
            return [str(node.target)] if str(node.target) in self.traced.tensors else []
        if node.op != "call_module":
            return []
        leaf = names.modules[str(node.target)]
        tensors = (*leaf._parameters.values(), *leaf._buffers.values())
        return [names.tensor_names[id(t)] for t in tensors if t is not None]

    def _named(self, tensors: Collection[str], add: fx.Node, taken: Collection[str]) -> str:
        """The module that holds all weights of a branch, with a counter where another branch has that name."""
        known = self.traced.tensors
        matrices = [n for n in tensors if isinstance(known[n], nn.Parameter) and sum(size > 1 for size in known[n].shape) > 1]
        weights = matrices or list(tensors)
        modules = [n.split(".")[:-1] for n in weights]
        least, most = min(modules, default=[]), max(modules, default=[])  # all others lie between these two
        parts = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(least, most, strict=False))
        base = ".".join(part for part, _ in parts) or add.name
        found, number = base, 0
        while found in taken:
            number += 1
            found = f"{base}#{number}"
        return found

    def _why_not(self, add: fx.Node, stream: fx.Node, operand: fx.Node, needed: set[fx.Node], lost: set[fx.Node]) -> str:
        """Why a branch cannot go, in a few words; empty if it can."""
        if "mode" in add.meta:
            return f"it is added in {add.meta['mode']} alone"
        if region_of(add) != OUTSIDE and not same_region(add, stream):
            return "it is added in another context (no_grad, autocast) than what remains was computed in"
        if operand in needed:
            readers = [n for n in operand.users if n in needed and n is not add]
            what = "is part of the output" if any(n.op == "output" for n in readers) else f"is read by {_listed(readers)}, too"
            return f"its result {what}" if readers else "a write into its memory is read elsewhere"
        ordered = [n for n in self.needs.nodes if n in lost]
        whole = next((n for n in ordered if is_whole(n)), None)
        if whole is not None:
            return f"{whole.name} is code that is not recorded, which may do more than compute a value"
        drawn = next((n for n in ordered if draws_always(n)), None)
        if drawn is not None:
            return f"{drawn.name} draws random numbers in evaluation, which changes those that are drawn later"
        return self._shared(ordered, needed) or ("" if self._goes(lost) else "all that it uses is used elsewhere, too")

    def _goes(self, lost: Collection[fx.Node]) -> bool:
        return any(n.name in self.sums.macs for n in lost)

    def _shared(self, lost: list[fx.Node], needed: set[fx.Node]) -> str:
        """A norm that keeps statistics of the branch and of another place."""
        others = {name for n in needed for name in self._read(n)}
        for node in lost:
            for name in self._read(node):
                if name in others and not isinstance(self.traced.tensors[name], nn.Parameter) and self._updates(node):
                    return f"in training it updates {name}, which is read elsewhere, too"
        return ""

    def _updates(self, node: fx.Node) -> bool:
        """Whether a node that reads a buffer may change it."""
        if node.op == "call_module":
            return bool(getattr(self.traced.names.modules[str(node.target)], "track_running_stats", True))
        return any(keeps_statistics(user) or node in self.needs.written(user) for user in node.users)

    def _spared(self, tensors: Collection[str]) -> str:
        names = {n for tensor in tensors for n in (tensor, *_prefixes(tensor))}
        for pattern in self._ignore:
            if any(fnmatch.fnmatchcase(name, pattern) for name in names):
                return f"ignore={pattern!r}"
        return ""


def _prefixes(name: str) -> list[str]:
    """The modules in which a tensor lies."""
    parts = name.split(".")[:-1]
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _listed(nodes: list[fx.Node]) -> str:
    shown = ", ".join(n.name for n in nodes[:3])
    return shown + (f" and {len(nodes) - 3} more" if len(nodes) > 3 else "")
