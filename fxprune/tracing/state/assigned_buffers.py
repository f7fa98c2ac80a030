"""Buffers that forward assigns (``self.mean = 0.9 * self.mean + ...``): the graph writes the new values into the old tensor."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx, nn

from fxprune.errors import TraceError
from fxprune.tracing.contexts.regions import OUTSIDE, Region
from fxprune.tracing.state.carried import made_of_sizes
from fxprune.tracing.values.proxy import is_proxy, value_of

if TYPE_CHECKING:
    from fxprune.tracing.recorder import Recorder

__all__ = ["assigned_buffers"]

_ABSENT: Any = object()


@contextmanager
def assigned_buffers(recorder: Recorder) -> Iterator[None]:
    """Around a run of forward, which leaves all buffers as they were; their new values are nodes at its end.

    Raises:
        TraceError: forward makes a buffer, takes one away, or gives it another shape or dtype.
    """
    modules = recorder.names.modules
    before = {name: dict(module._buffers) for name, module in modules.items()}
    try:
        yield
        for name, module in modules.items():
            for key in {**before[name], **module._buffers}:
                old, new = before[name].get(key, _ABSENT), module._buffers.get(key, _ABSENT)
                if old is not new:
                    _write(recorder, f"{name}.{key}" if name else key, old, new)
    finally:
        for name, module in modules.items():
            _restore(module, before[name])


def _restore(module: nn.Module, before: Mapping[str, Any]) -> None:
    now = module._buffers
    if len(now) != len(before) or any(now.get(key, _ABSENT) is not value for key, value in before.items()):
        now.clear()
        now.update(before)


def _write(recorder: Recorder, name: str, old: Any, new: Any) -> None:
    value = value_of(new)
    if not isinstance(old, Tensor) or not isinstance(value, Tensor):
        raise TraceError(
            f"forward makes the buffer {name!r} or takes it away, which a graph cannot hold: register it in __init__, as a "
            "tensor of its final shape"
        )
    if value.shape != old.shape or value.dtype != old.dtype:
        if not is_proxy(new) or made_of_sizes(
            recorder, new
        ):  # a table that is made where the last one is of another size: by each call
            return
        raise TraceError(
            f"forward assigns to the buffer {name!r} a tensor of {_form(value)} where one of {_form(old)} was: a graph keeps "
            "shape and dtype of what it holds"
        )
    held = recorder.get_attr(name, old)
    if is_proxy(new) and _is_same_memory(new.node, held.node):
        return
    recorder.contexts.region = Region(grad=False)
    if held.node.users:  # what was read before is what was there before, and gradients may go through it
        with recorder.graph.inserting_after(held.node):
            before = recorder.create_proxy("call_method", "clone", (held,), {})
        held.node.replace_all_uses_with(before.node, lambda user: user is not before.node)
        new = before if is_proxy(new) and new.node is held.node else new
    recorder.create_proxy("call_method", "copy_", (held, new), {})
    recorder.contexts.region = OUTSIDE


def _is_same_memory(node: fx.Node, held: fx.Node) -> bool:
    """Whether a node is a tensor, or what an augmented assignment made of it."""
    while node is not held:
        name = getattr(node.target, "__name__", "")
        augmented = name[:1] == "i" and getattr(operator, name, None) is node.target
        if not augmented or not isinstance(node.args[0], fx.Node):
            return False
        node = node.args[0]
    return True


def _form(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)}, {str(tensor.dtype).removeprefix('torch.')}"
