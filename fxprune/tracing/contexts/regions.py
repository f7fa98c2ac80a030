"""Contexts that forward enters (``torch.no_grad``, ``torch.autocast``, ...): the state that they leave a node in.

A node that runs in another state than its caller's carries it as ``node.meta["region"]``. Code of a graph, of either kind,
puts runs of nodes of one region into ``with`` blocks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import fx

from fxprune.tracing.graphs.part_names import written

__all__ = ["OUTSIDE", "Autocast", "Region", "entered", "region_of", "same_region"]

# Whether gradients are on: yes, no, as the caller has it; or that in evaluation and in training, where they differ.
Switch = bool | None
_BY_MODE = {
    (False, True): "{training}",
    (True, False): "not {training}",
    (False, None): "{training} and {torch}.is_grad_enabled()",
    (None, False): "not {training} and {torch}.is_grad_enabled()",
    (None, True): "{training} or {torch}.is_grad_enabled()",
    (True, None): "not {training} or {torch}.is_grad_enabled()",
}


@dataclass(frozen=True)
class Autocast:
    """What ``torch.autocast`` does to the operators of one kind of device."""

    device: str
    dtype: torch.dtype
    enabled: bool
    cache: bool

    def text(self, torch: str) -> str:
        """The context as code."""
        rest = f", dtype={torch}.{str(self.dtype).partition('.')[2]}" if self.enabled else ", enabled=False"
        return f'{torch}.autocast("{self.device}"{rest}{"" if self.cache else ", cache_enabled=False"})'


@dataclass(frozen=True)
class Region:
    """The state that contexts leave a node in; None: what the caller has.

    Attributes:
        inference: of ``torch.inference_mode``.
        grad: of ``torch.no_grad`` and its like; a pair (in evaluation, in training) where the mode decides.
        autocast: by kind of device.
        device: where factories make tensors (``with torch.device(...)``).
        flag: the ``training`` flag of that mode.
        backends: names of the kernels that attention may take (`torch.nn.attention.SDPBackend`).
    """

    inference: bool | None = None
    grad: Switch | tuple[Switch, Switch] = None
    autocast: tuple[Autocast, ...] = ()
    device: str | None = None
    backends: tuple[str, ...] | None = None
    flag: str = "training"

    @property
    def frame(self) -> Region:
        """The region but for gradients: nodes of the two modes can be one node if they agree in this."""
        return self if self.grad is None else replace(self, grad=None)

    def merged(self, training: Region, flag: str) -> Region:
        """The region of a node that is in this one in evaluation, and in another of the same frame in training."""
        if self.grad == training.grad:
            return self
        return replace(self, grad=(self.grad, training.grad), flag=flag)  # type: ignore[arg-type]

    def with_autocast(self, device: str, state: Autocast | None) -> Region:
        """The same with another state of autocast for one kind of device."""
        others = tuple(a for a in self.autocast if a.device != device)
        return replace(self, autocast=others if state is None else (*others, state))

    def headers(self, torch: str = "torch", training: str = "") -> list[str]:
        """The contexts as code, outermost first: what stands between ``with`` and the colon."""
        training = training or written("self", self.flag)
        found = []
        if self.device is not None:
            found.append(f'{torch}.device("{self.device}")')
        if self.inference is not None:
            found.append(f"{torch}.inference_mode({'' if self.inference else 'False'})")
        if isinstance(self.grad, tuple):
            found.append(f"{torch}.set_grad_enabled({_BY_MODE[self.grad].format(training=training, torch=torch)})")
        elif self.grad is not None and self.inference is not (not self.grad):  # which switches gradients too
            found.append(f"{torch}.enable_grad()" if self.grad else f"{torch}.no_grad()")
        found += [a.text(torch) for a in self.autocast]
        if self.backends is not None:
            names = ", ".join(f"{torch}.nn.attention.SDPBackend.{name}" for name in self.backends)
            found.append(f"{torch}.nn.attention.sdpa_kernel([{names}])")
        return found


OUTSIDE = Region()


def region_of(node: fx.Node) -> Region:
    """The region of a node; `OUTSIDE` of one that runs as its caller does."""
    found: Region = node.meta.get("region", OUTSIDE)
    return found


def same_region(a: fx.Node, b: fx.Node) -> bool:
    """Whether two nodes run in one state."""
    return region_of(a) == region_of(b)


@contextlib.contextmanager
def entered(node: fx.Node, gradients: bool, training: bool = False) -> Iterator[None]:
    """Inside, the state that a node runs in, for those who run a graph node by node.

    Args:
        gradients: with what the region says of them; without, tensors may be written into afterwards.
    """
    region = region_of(node)
    if region is OUTSIDE:
        yield
        return
    with contextlib.ExitStack() as stack:
        if gradients and region.inference is not None:
            stack.enter_context(torch.inference_mode(region.inference))
        grad = region.grad[training] if isinstance(region.grad, tuple) else region.grad
        if gradients and grad is not None:
            stack.enter_context(torch.set_grad_enabled(grad))
        for cast in region.autocast:
            stack.enter_context(torch.autocast(cast.device, cast.dtype, cast.enabled, cast.cache))
        if region.device is not None:
            stack.enter_context(torch.device(region.device))
        if region.backends is not None:
            stack.enter_context(torch.nn.attention.sdpa_kernel([getattr(_BACKENDS, b) for b in region.backends]))
        yield


_BACKENDS = torch.nn.attention.SDPBackend
