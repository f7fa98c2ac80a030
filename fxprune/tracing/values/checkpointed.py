"""Reentrant checkpoints, which compute what their code says, and give no gradients where none of their inputs needs any."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from fxprune import nested
from fxprune.tracing.contexts.regions import region_of
from fxprune.tracing.values.proxy import is_proxy

__all__ = ["checkpointed"]


def checkpointed(recorder: Any, run: Callable[..., Any], inputs: tuple[Any, ...]) -> Any:
    """What `torch.utils.checkpoint.CheckpointFunction` gives: it runs without gradients, and again with them in the backward
    pass, which autograd only comes to if an input needs a gradient. So parameters inside learn nothing at the front of a model.
    Of a model that is frozen as a whole nobody knows what will be trained: there it runs as if it were none.
    """
    frozen = not any(p.requires_grad for p in recorder.root.parameters())
    if frozen or any(_needs_gradient(recorder, value) for value in nested.leaves(inputs) if is_proxy(value)):
        return run(*inputs)
    with torch.no_grad():
        return run(*inputs)


def _needs_gradient(recorder: Any, proxy: Any) -> bool:
    """Whether a value follows from a parameter that is trained; the model's inputs are taken not to be."""
    waiting, seen = [proxy.node], set()
    while waiting:
        node = waiting.pop()
        if node in seen or not _differentiable(recorder, node):
            continue
        if _holds_trained(recorder, node):
            return True
        seen.add(node)
        waiting += node.all_input_nodes
    return False


def _differentiable(recorder: Any, node: fx.Node) -> bool:
    value = recorder.values.get(node)
    if isinstance(value, Tensor) and not (value.is_floating_point() or value.is_complex()):
        return False
    return region_of(node).grad is not False and node.target not in ("detach", torch.detach)


def _holds_trained(recorder: Any, node: fx.Node) -> bool:
    if node.op == "call_module":
        return any(p.requires_grad for p in recorder.root.get_submodule(node.target).parameters())
    return node.op == "get_attr" and getattr(recorder.values[node], "requires_grad", False)
