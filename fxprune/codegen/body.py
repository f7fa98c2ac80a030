"""The body of ``forward``: statements, blocks for one mode, and what is returned."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import Node

from fxprune.codegen.expressions import ATOM, INFIX, Expressions
from fxprune.codegen.regions import Condition, conditions
from fxprune.codegen.values import is_augmented, is_growing, is_loop, is_select_mode
from fxprune.tracing.contexts.regions import OUTSIDE, region_of
from fxprune.tracing.graphs.one_mode import only_mode

__all__ = ["signature", "statements"]

INDENT = 8


def signature(slim: torch.fx.GraphModule, expressions: Expressions) -> str:
    """Return the arguments of ``forward``, with their defaults."""
    arguments = ["self"]
    for node in slim.graph.nodes:
        if node.op == "placeholder":
            default = f"={expressions.value(node.args[0])}" if node.args else ""
            arguments.append(f"{node.target}{default}")
    return ", ".join(arguments)


def statements(
    slim: torch.fx.GraphModule, expressions: Expressions, needed: Mapping[Node, tuple[Condition, ...]] | None = None
) -> list[str]:
    """Return the lines of the body, indented.

    Args:
        needed: the conditions under which each node is needed, if they are known; then no empty lines part the parts.
    """
    body = _Body(expressions, parted=needed is None)
    needed = conditions(slim) if needed is None else needed
    for node in expressions.schedule.statements:
        if node.op == "output":
            body.enter(())
            body.finish(node.args[0], INDENT)
        else:
            body.part(node)
            body.enter((*body.contexts(node), *needed[node]))
            body.write(node)
    return body.lines


class _Body:
    def __init__(self, expressions: Expressions, parted: bool) -> None:
        self.expressions = expressions
        self.parted = parted
        self.schedule = expressions.schedule
        self.lines: list[str] = []
        self.open: tuple[Condition | str, ...] = ()
        self.current: str | None = None

    def part(self, node: Node) -> None:
        """Leave an empty line where another part of the model begins: its next layer, stage or branch."""
        scope = node.meta.get("scope", self.current)
        if not self.parted:
            return
        if node.op == "call_module" or scope != self.current:
            part = self._part(str(node.target) if node.op == "call_module" else f"{scope}.")
            if self.current not in (None, part):
                self.lines.append("")
            self.current = part

    def contexts(self, node: Node) -> list[str]:
        """Return the contexts that a node runs in, as code."""
        region = region_of(node)
        return [] if region == OUTSIDE else region.headers(self.expressions.names.use("torch"), self._flag(region.flag))

    def enter(self, needed: tuple[Condition | str, ...]) -> None:
        """Close blocks that do not hold for the next statement, and open those that it needs: contexts are texts."""
        shared = 0
        while shared < min(len(self.open), len(needed)) and self.open[shared] == needed[shared]:
            shared += 1
        for depth in range(shared, len(needed)):
            block = needed[depth]
            if isinstance(block, str):
                self._line(f"with {block}:", depth)
                continue
            flag, value = block
            # Right after the block for the other mode, at the same depth, with nothing in between.
            opposite = depth == shared and depth < len(self.open) and self.open[depth] == (flag, not value)
            self._line("else:" if opposite else f"if {'' if value else 'not '}{self._flag(flag)}:", depth)
        self.open = needed

    def write(self, node: Node) -> None:
        """Write the line, or two, of `node`."""
        name, target = self._targets(node), node.target
        if node.op == "call_function" and target in (operator.setitem, operator.delitem):
            place = f"{self.expressions.tight(node.args[0], ATOM)}[{self.expressions.index(node.args[1])}]"
            deleted = target is operator.delitem
            self._line(f"del {place}" if deleted else f"{place} = {self.expressions.value(node.args[2])}")
        elif getattr(target, "__name__", "") == "_assert":
            self._assert(node)
        elif target is only_mode:
            self._only_mode(*node.args)
        elif is_augmented(node):
            self._augment(node, name)
        elif is_growing(node):
            self._growth(node, name)
        elif is_loop(node):
            self._loop(node, name)
        else:
            text, _ = self.expressions.node(node)
            self._line(f"{name} = {text}" if name else text)

    def finish(self, value: Any, indent: int) -> None:
        """Write the return statement; a value that depends on the mode gets one for each."""
        if isinstance(value, Node) and is_select_mode(value) and value in self.schedule.inlined:
            flag, yes, no = value.args
            self.lines.append(f"{' ' * indent}if {self.expressions.value(flag)}:")
            self.finish(yes, indent + 4)
            self.finish(no, indent)
            return
        text = self.expressions.value(value)
        if type(value) is tuple and len(value) > 1:
            text = text[1:-1] if len(text) < 80 else text
        self.lines.append(f"{' ' * indent}return {text}")

    def _targets(self, node: Node) -> str:
        variables = self.schedule.variables
        if node in self.schedule.unpacked:
            return ", ".join(variables.get(entry, "_") if entry else "_" for entry in self.schedule.unpacked[node])
        return variables.get(node, "")

    def _augment(self, node: Node, name: str) -> None:
        symbol = INFIX[getattr(node.target, "__name__", "")[1:].rstrip("_")][0]
        changed, amount = node.args
        current = self.schedule.variables.get(changed) if isinstance(changed, Node) else None
        amount_text = self.expressions.value(amount)
        if current is None or (name and name != current):
            name = name or "_"
            self._line(f"{name} = {self.expressions.value(changed)}")
        self._line(f"{name or current} {symbol}= {amount_text}")

    def _assert(self, node: Node) -> None:
        condition, *message = node.args or (node.kwargs["condition"],)
        message = message or [node.kwargs.get("message", "")]
        text, said = self.expressions.tight(condition, 1), message[0]
        if isinstance(said, str):
            said = said[:400] + "..." * (len(said) > 400)
        self._line(f"assert {text}, {self.expressions.value(said)}" if said else f"assert {text}")

    def _only_mode(self, flag: Any, recorded: Any, sentence: Any) -> None:
        self._line(f"if {'not ' if recorded else ''}{self.expressions.tight(flag, 1)}:")
        self._line(f"raise RuntimeError({self.expressions.value(sentence)})", len(self.open) + 1)

    def _loop(self, node: Node, name: str) -> None:
        loop: Any = node.target
        shown = [self.expressions.value(argument) for argument in node.args]
        if not name or name != shown[loop.place]:
            name = name or "_"
            self._line(f"{name} = {shown[loop.place]}")
            shown[loop.place] = name
        part = self.schedule.part_name(loop.container)
        self._line(f"for {part} in {self.expressions.tree.access(loop.container)}{loop.span}:")
        self._line(f"{name} = {part}({', '.join(shown)})", len(self.open) + 1)

    def _growth(self, node: Node, name: str) -> None:
        container: str = node.target.container  # type: ignore[union-attr]
        part = self.schedule.part_name(container or "layers")
        self._line(f"{name} = {self.expressions.value(node.args[0])}")
        self._line(f"for {part} in {self.expressions.tree.access(container)}.children():")
        self._line(f"{name}.append({part}({name}))", len(self.open) + 1)

    def _flag(self, path: str) -> str:
        return self.expressions.tree.access(path)

    def _line(self, text: str, depth: int | None = None) -> None:
        self.lines.append(" " * (INDENT + 4 * (len(self.open) if depth is None else depth)) + text)

    def _part(self, path: str) -> str:
        """Return the part of the model that a module belongs to: ``layer1.0``, ``inception4a``."""
        names = path.split(".")[:-1]
        for index, name in enumerate(names):
            prefix = ".".join(names[: index + 1])
            if name.isdigit() or (any(map(str.isdigit, name)) and self._is_stage(prefix)):
                numbered = not name.isdigit() and index + 1 < len(names) and names[index + 1].isdigit()
                return ".".join(names[: index + 1 + numbered])
        return ".".join(names[:1])

    def _is_stage(self, path: str) -> bool:
        """Return True if the module at `path` has parts that have parts."""
        module: Any = self.schedule.slim
        for name in path.split("."):
            module = getattr(module, name, None)
        children = getattr(module, "_modules", {}).values()
        return any(child._modules for child in children if child is not None)
