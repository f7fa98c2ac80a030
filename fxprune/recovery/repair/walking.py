"""Walks through a graph in steps, with many chunks of images side by side: each node runs once for each chunk."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import fx

from fxprune.errors import InputError
from fxprune.inputs.examples import own_copy
from fxprune.recovery.repair.shelf import Shelf
from fxprune.state import named_tensors, place_of
from fxprune.statistics.walk import failing
from fxprune.tracing.contexts.regions import entered
from fxprune.tracing.graphs.modes import in_evaluation
from fxprune.tracing.graphs.one_mode import without_checks

__all__ = ["Walk"]


class Walk:
    """One graph in evaluation mode. Every chunk stands before some node; nodes are asked for in their order.

    Between two questions a chunk's values lie on the shelf: only those that later nodes read.

    Args:
        amp: what autocast computes in, on the device of the module's tensors; None: as the graph says.

    Attributes:
        nodes: name -> node, of those that evaluation runs.
        last: the output.
    """

    def __init__(self, module: fx.GraphModule, shelf: Shelf, amp: torch.dtype | None = None) -> None:
        self._amp, self._device = amp, place_of(module)[0].type
        self.module = without_checks(module)
        self._interpreter = fx.Interpreter(self.module)
        self._interpreter.extra_traceback = False
        self._all = list(self.module.graph.nodes)
        self.last = self._all[-1]
        self._place = {node: number for number, node in enumerate(self._all)}
        needed = in_evaluation(self.module.graph)
        self.nodes = {n.name: n for n in self._all if n.name in needed}
        self._own = {t.untyped_storage().data_ptr() for t in named_tensors(module).values()}
        self._shelf = shelf
        self._next: dict[int, int] = {}
        self._last: dict[fx.Node, list[fx.Node]] = {}
        for node in self._all:
            users = [user for user in node.users if user.name in needed]
            end = max(users, key=self._place.__getitem__) if users else node
            self._last.setdefault(end, []).append(node)

    def start(self, chunk: int, inputs: tuple[Any, ...]) -> None:
        """Give a chunk its inputs, in the order of the placeholders."""
        given = iter(own_copy(inputs))
        env = {node: next(given) for node in self._all if node.op == "placeholder"}
        self._next[chunk] = 0
        self._shelf.put((self, chunk), env, self._own)

    def arguments(self, chunk: int, name: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the node `name` is called with."""
        node = self.nodes[name]
        env = self._shelf.take((self, chunk))
        self._run(chunk, env, self._place[node])
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), env.__getitem__)
        self._shelf.put((self, chunk), env, self._own)
        return args, kwargs

    def value(self, chunk: int, name: str) -> Any:
        """What the node `name` gives."""
        node = self.nodes[name]
        env = self._shelf.take((self, chunk))
        value = self._run(chunk, env, self._place[node] + 1)
        value = env.get(node, value)  # which ran before, if this is asked for again
        self._shelf.put((self, chunk), env, self._own)
        return value

    def ahead(self, chunk: int, name: str) -> Any:
        """What the node `name` will give, or gave; the chunk stays where it stands. What has yet to run for it runs twice."""
        env = self._shelf.take((self, chunk))
        early = self._interpreter.env = dict(env)
        with torch.no_grad(), failing("the model"), self._casting():
            self._run_for(self.nodes[name], early)
        self._interpreter.env = {}
        self._shelf.put((self, chunk), env, self._own)
        return early[self.nodes[name]]

    def _run_for(self, node: fx.Node, env: dict[fx.Node, Any]) -> None:
        if node not in env:
            for needed in node.all_input_nodes:
                self._run_for(needed, env)
            env[node] = self._step(node)

    def _casting(self) -> Any:
        return nullcontext() if self._amp is None else torch.autocast(self._device, dtype=self._amp)

    def output(self, chunk: int) -> Any:
        """What the graph gives, after which the chunk is done."""
        env = self._shelf.take((self, chunk))
        return self._run(chunk, env, len(self._all))

    def _run(self, chunk: int, env: dict[fx.Node, Any], stop: int) -> Any:
        """Run the nodes before number `stop`; the value of the last of them."""
        value = None
        self._interpreter.env = env
        with torch.no_grad(), failing("the model"), self._casting():
            for node in self._all[self._next[chunk] : stop]:
                if node.op == "placeholder":
                    continue
                value = env[node] = self._step(node)
                for done in self._last.get(node, ()):
                    env.pop(done, None)
        self._next[chunk] = max(stop, self._next[chunk])
        self._interpreter.env = {}
        return value

    def _step(self, node: fx.Node) -> Any:
        if node.name not in self.nodes:
            return None
        if node.target is torch._assert:
            condition, message = self._interpreter.fetch_args_kwargs_from_env(node)[0]
            if not condition:
                raise InputError(f"the images do not fit the model as it was traced ({message}): trace it on that size")
            return None
        with entered(node, gradients=False):
            return self._interpreter.run_node(node)
