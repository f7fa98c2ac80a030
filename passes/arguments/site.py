"""A node whose arguments may have to change, and the repairs that know how."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx
from torch.fx.node import map_arg

from fxprune.analysis.cut import Cut
from fxprune.labels.store import Axis
from fxprune.labels.table import register
from fxprune.passes.base import Context
from fxprune.tracing.graphs.constant_names import fresh

__all__ = ["Repair", "Site", "repair"]


@dataclass(eq=False)
class Site:
    """A node of the slim graph.

    Attributes:
        values: what the nodes before it give in the slim model, on the meta device.
    """

    node: fx.Node
    module: fx.GraphModule
    context: Context
    values: dict[fx.Node, Any]

    @property
    def cut(self) -> Cut:
        return self.context.cut

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument as it stands in the graph, given by place or by name."""
        return self.node.args[position] if len(self.node.args) > position else self.node.kwargs.get(name, default)

    def put(self, position: int, name: str, value: Any) -> int:
        """Set an argument where it stands, or by name; returns 1 (a counter)."""
        if len(self.node.args) > position:
            self.node.update_arg(position, value)
        else:
            self.node.update_kwarg(name, value)
        return 1

    def value(self, argument: Any) -> Any:
        """What an argument is in the slim model."""
        return map_arg(argument, self.values.__getitem__)

    @property
    def source(self) -> fx.Node:
        """The node that makes the first argument."""
        first = self.node.args[0] if self.node.args else self.node.kwargs.get("input", self.node.kwargs.get("self"))
        assert isinstance(first, fx.Node)
        return first

    @property
    def inputs(self) -> tuple[Axis, ...]:
        """Labels of the first argument in the original."""
        found: tuple[Axis, ...] = self.context.axes(self.source)
        return found

    @property
    def outputs(self) -> tuple[Axis, ...]:
        """Labels of the result in the original."""
        found: tuple[Axis, ...] = self.context.axes(self.node)
        return found

    def constant(self, value: Tensor) -> fx.Node:
        """A node that reads a new constant of the slim model."""
        names = self.context.traced.names  # of the original, in which what is left out here has its name still
        name = fresh(f"_index_{self.node.name}", names.all_tensors, names.modules, self.context.constants, dir(self.module))
        self.context.constants[name] = value
        self.module.register_buffer(name, value.to("meta"), persistent=False)
        with self.module.graph.inserting_before(self.node):
            made = self.module.graph.get_attr(name)
        made.meta = {"scope": "", "source": ""}
        self.values[made] = value.to("meta")
        return made

    def scaled(self, argument: Any, old: int, new: int) -> Any:
        """A size argument that was `old` and must be `new`.

        * A number: the new one.
        * A product ``n * 64`` of a size that follows the input and a number: the number is scaled, ``n * 32``; where that
          makes it 1, ``n`` alone. The graph stays as one would write it.
        * Any other expression: times the ratio in lowest terms, ``size * 2 // 3``. Both sizes are the same multiple of
          what follows the input, so the division leaves no rest at any size.
        """
        if not isinstance(argument, fx.Node):
            return new
        shared = math.gcd(old, new)
        times, over = new // shared, old // shared
        with self.module.graph.inserting_before(self.node):
            if argument.target is operator.mul:
                for position, factor in enumerate(argument.args):
                    if type(factor) is int and factor * times % over == 0:
                        return self._product(argument.args[1 - position], position, factor * times // over, new)
            made = argument if times == 1 else self._number(operator.mul, (argument, times), old * times)
            return made if over == 1 else self._number(operator.floordiv, (made, over), new)

    def _product(self, other: Any, position: int, factor: int, value: int) -> Any:
        """``other * factor``, with the number at its former place."""
        if factor == 1:
            return other
        args = (factor, other) if position == 0 else (other, factor)
        return self._number(operator.mul, args, value)

    def _number(self, function: Callable[..., Any], args: tuple[Any, ...], value: int) -> fx.Node:
        node = self.module.graph.call_function(function, args)
        node.meta = {"scope": self.node.meta.get("scope", ""), "source": ""}
        self.values[node] = value
        return node


Repair = Callable[[Site], int]


def repair(*names: str) -> Callable[[Repair], Repair]:
    """Register a function that sets the size arguments of these operators and returns how many it changed.

    Raises:
        InputError: one of them has a repair.
    """

    def keep(function: Repair) -> Repair:
        register("repair", names, function)
        return function

    return keep
