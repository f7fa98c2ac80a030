"""What is a statement of ``forward``, what is written inside another one, and how variables are called."""

from __future__ import annotations

import itertools
import operator
import types
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch.fx import Node

from fxprune.codegen.names import Names, is_name
from fxprune.codegen.values import (
    is_augmented,
    is_growing,
    is_loop,
    is_metadata,
    is_record,
    is_select_mode,
    is_statement,
    is_tuple,
    says_nothing,
    tuple_length,
)
from fxprune.tracing.contexts.regions import same_region

__all__ = ["POOL", "RESHAPING", "Schedule", "metadata_names"]

POOL = ("x", "y", "z", "u", "v", "w")
# How far, in nodes, and how large, in nodes, an expression may be that is written at its only use.
REACH, SIZE = 12, 6
# How many arguments a chain of methods may have.
WIDTH = 12
# These change the shape of the tensor itself: sizes must be read where the graph reads them.
RESHAPING = frozenset({"squeeze_", "unsqueeze_", "resize_", "transpose_", "t_", "swapaxes_", "swapdims_", "set_"})


class Schedule:
    """The statements of ``forward``.

    Attributes:
        statements: nodes that get a line, in order; the output node is the last.
        unpacked: node -> the getitem node of each of its entries, or None: written ``a, b = node``.
        variables: node -> its name. Nodes that are written inside others, or have no value, have none.
    """

    def __init__(self, slim: torch.fx.GraphModule, names: Names, nest: int = 1) -> None:
        """
        Args:
            nest: how many calls may stand inside one another: ``self.act(self.norm(self.conv(x)))`` are three.
        """
        self.slim = slim
        self.names = names
        self.nest = nest
        self.depth: dict[Node, int] = {}  # of calls that are written inside others: how many stand inside one another
        self.nodes = list(slim.graph.nodes)
        self.position = {node: index for index, node in enumerate(self.nodes)}
        self.reshaping = any(node.op == "call_method" and node.target in RESHAPING for node in self.nodes)
        self.dropped = self._unused()
        self.unpacked = self._unpacked()
        entries = {entry for part in self.unpacked.values() for entry in part}
        self.inlined: dict[Node, int] = {}
        for node in self.nodes:
            if node not in entries and (size := self._inline_size(node)):
                self.inlined[node] = size
        hidden = self.dropped | entries | self.inlined.keys()
        self.statements = [node for node in self.nodes if node not in hidden and node.op != "placeholder"]
        self.variables: dict[Node, str] = {}
        self._name_all()

    def part_name(self, container: str) -> str:
        """Return a variable for each part of a container in turn: ``block`` for ``blocks``."""
        word = container.rpartition(".")[2]
        word = word[:-1] if word.endswith("s") and len(word) > 2 else "part"
        return _free([word if is_name(word) else "part"], set(self.variables.values()), self.names)

    def module(self, node: Node) -> torch.nn.Module | None:
        """Return the module that `node` calls, if any."""
        return self.slim.get_submodule(str(node.target)) if node.op == "call_module" else None

    def users(self, node: Node) -> list[Node]:
        """Return users of `node` that are written at all."""
        return [user for user in node.users if user not in self.dropped]

    def operands(self, node: Node) -> Iterator[Node]:
        """Yield the nodes whose variables the line of `node` reads, through what is written inside it."""
        for argument in node.all_input_nodes:
            if argument in self.inlined:
                yield from self.operands(argument)
            else:
                yield argument

    def dies(self, node: Node, at: Node) -> bool:
        """Return True if the line of `at` is the last that reads the variable of `node`."""
        return self.last_use.get(node) is at

    def _unused(self) -> set[Node]:
        unused: set[Node] = set()
        for node in reversed(self.nodes):
            getitem = node.op == "call_function" and node.target in (operator.getitem, getattr)
            pure = getitem or node.op == "get_attr" or is_metadata(node) or is_select_mode(node) or says_nothing(node)
            if pure and all(user in unused for user in node.users):
                unused.add(node)
        return unused

    def _unpacked(self) -> dict[Node, list[Node | None]]:
        found: dict[Node, list[Node | None]] = {}
        for node in self.nodes:
            length = tuple_length(node, self.module(node))
            users = self.users(node)
            if not length or not users or not all(_is_entry(user, node, length) for user in users):
                continue
            indices = [int(user.args[1]) % length for user in users]  # type: ignore[arg-type]
            # One entry alone reads better as `chunks[0]`; an entry taken twice has two names anyway.
            if len(set(indices)) == len(users) and len(users) > 1:
                found[node] = [dict(zip(indices, users, strict=True)).get(index) for index in range(length)]
        return found

    def _inline_size(self, node: Node) -> int:
        """Return the number of nodes in the expression of `node` if it is written at its use, else 0."""
        if node.op == "get_attr":
            return 1
        users = self.users(node)
        if node.op in ("placeholder", "output") or len(users) != 1 or node in self.unpacked:
            return 0
        user = users[0]
        if is_loop(node) or is_loop(user):  # a statement of its own, which computes its arguments at each step
            return 0
        uses: list[Node] = []
        torch.fx.node.map_arg((user.args, user.kwargs), uses.append)
        size = 1 + sum(self.inlined.get(argument, 0) for argument in node.all_input_nodes)
        if uses.count(node) != 1 or is_statement(node):
            return 0
        if not same_region(node, user) and not is_metadata(node):
            return 0
        if self._chained(node, user):
            return size
        if self._nested(node, user):
            self.depth[node] = 1 + max((self.depth.get(argument, 0) for argument in node.all_input_nodes), default=0)
            return size
        if user.op == "output" and user.args[0] is node and self.position[user] == self.position[node] + 1:
            return 0 if is_augmented(node) else size
        container = is_record(node.target) or is_select_mode(node)
        if container:
            return size if user.op == "output" or is_record(user.target) or is_select_mode(user) else 0
        entry = node.target is operator.getitem and type(node.args[1]) is int
        light = entry or (is_metadata(node) and not self.reshaping)
        near = self.position[user] - self.position[node] <= REACH
        return size if light and near and size <= SIZE else 0

    def _chained(self, node: Node, user: Node) -> bool:
        """Return True for methods that follow one another: ``x.flatten(2).transpose(1, 2)``."""
        methods = node.op == user.op == "call_method" and user.args[0] is node
        if not methods or is_metadata(user) or str(node.target).endswith("_"):
            return False
        if self._width(node) + len(user.args) > WIDTH:
            return False
        between = self.nodes[self.position[node] + 1 : self.position[user]]
        return all(other.op == "get_attr" or is_metadata(other) for other in between)

    def _nested(self, node: Node, user: Node) -> bool:
        """Return True for a call inside that of the next line, ``self.norm(self.conv(x))``, or after its operator."""
        depth = 1 + max((self.depth.get(argument, 0) for argument in node.all_input_nodes), default=0)
        if depth >= self.nest or not self._is_call(node):
            return False
        last = user.target in (operator.add, operator.mul) and user.args[1] is node and user.args[0] is not node
        if not last and not (self._is_call(user) and user.all_input_nodes == [node]):
            return False
        between = self.nodes[self.position[node] + 1 : self.position[user]]
        return all(other.op == "get_attr" or is_metadata(other) for other in between)

    def _is_call(self, node: Node) -> bool:
        """Return True for a call of a module or function that makes one tensor."""
        function = node.op == "call_function" and type(node.target) is types.FunctionType
        named = function and not is_loop(node) and not is_record(node.target) and not is_statement(node)
        return (node.op == "call_module" or named) and not self._is_tuple(node)

    def _width(self, node: Node) -> int:
        """Return the number of arguments in the expression of `node`."""
        inner = [self._width(argument) for argument in node.all_input_nodes if argument in self.inlined]
        return len(node.args) + len(node.kwargs) + sum(inner)

    def _name_all(self) -> None:
        self.last_use = {operand: node for node in self.statements for operand in self.operands(node)}
        live: Counter[str] = Counter()
        for node in self.nodes:
            if node.op == "placeholder":
                self.variables[node] = str(node.target).lstrip("*")
                live[self.variables[node]] += node in self.last_use
        self.first = next((name for node, name in self.variables.items() if not self._is_tuple(node)), "x")
        for node in self.statements:
            dying = [operand for operand in dict.fromkeys(self.operands(node)) if self.dies(operand, node)]
            for operand in dying:
                live[self.variables[operand]] -= 1
            for value in self.unpacked.get(node, [node]):
                if value is None or not self.users(value) or is_statement(value):
                    continue
                name = self._name(value, [] if value is not node else dying, +live)
                self.variables[value] = name
                live[name] += 1

    def _name(self, node: Node, dying: list[Node], live: Counter[str]) -> str:
        """Return a variable for `node`: an operand that dies here, a hint from its module, or a free one."""
        if is_metadata(node):
            return _free(metadata_names(node), live, self.names)
        if is_growing(node):
            return _free(["features"], live, self.names)
        if self._is_tuple(node):
            return _free([_words(node)], live, self.names)
        ended = [self.variables[d] for d in dying if not is_metadata(d) and not self._is_tuple(d)]
        ended = [name for name in ended if name not in live]
        if node.op == "call_module" and (hint := self._hint(str(node.target))) and hint not in live:
            return hint
        if is_augmented(node) or is_loop(node):  # `x += y` keeps the name of x; a copy of it must not hide y
            taken = {*live, *(self.variables[d] for d in dying)}
            changed = node.args[node.target.place if is_loop(node) else 0]  # type: ignore[union-attr]
            kept = isinstance(changed, Node) and changed in dying
            return self.variables[changed] if kept else _free([*POOL], taken, self.names)  # type: ignore[index]
        tensors = [operand for operand in set(self.operands(node)) if not is_metadata(operand)]
        if len(tensors) == 1 and ended:
            return ended[0]
        stream = (self.first, *POOL)
        if pool := sorted({name for name in ended if name in stream}, key=stream.index):
            return pool[0]
        return _free(list(stream), live, self.names)

    def _is_tuple(self, node: Node) -> bool:
        return is_tuple(node, self.module(node)) and bool(self.users(node))

    def _hint(self, path: str) -> str:
        """Return the name of the innermost container in a module path: ``attn`` of ``blocks.0.attn.qkv``."""
        words = [word for word in path.split(".")[:-1] if not word.isdigit()]
        usable = len(words) > 1 and is_name(words[-1]) and len(words[-1]) <= 20
        return words[-1] if usable and not self.names.reserved(words[-1]) else ""


def _is_entry(user: Node, node: Node, length: int) -> bool:
    taken = user.op == "call_function" and user.target is operator.getitem and user.args[0] is node
    return taken and type(user.args[1]) is int and -length <= user.args[1] < length


def _words(node: Node) -> str:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return {"chunk": "chunks", "split": "parts", "unbind": "parts"}.get(name, "outputs")


def metadata_names(node: Node) -> list[str]:
    entry = (node.op == "call_method" and node.target == "size") or node.target is operator.getitem
    if entry and node.args[1:] == (0,):
        return ["batch"]
    spatial = {2: "height", 3: "width"}
    if entry and isinstance(node.args[0], Node) and node.args[0].op == "placeholder" and node.args[1] in spatial:
        return [spatial[node.args[1]]]  # type: ignore[index]
    if node.op == "call_method":
        return ["shape" if node.target == "size" and len(node.args) == 1 else str(node.target)]
    if node.target is getattr:
        return [str(node.args[1])]
    return ["size"]


def _free(wanted: list[str], live: Any, names: Names) -> str:
    """Return the first of the `wanted` names, then numbered ones, that no live variable has."""
    numbered = (f"{wanted[0]}{'_' if len(wanted[0]) > 1 else ''}{number}" for number in itertools.count(2))
    candidates = itertools.chain(wanted, numbered)
    return next(name for name in candidates if name not in live and not names.reserved(name))
