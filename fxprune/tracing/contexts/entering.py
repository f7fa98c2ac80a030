"""Contexts while a model is recorded: they change nothing but the region of the nodes that are recorded inside."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import fx
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from fxprune.errors import TraceError
from fxprune.tracing.contexts.regions import OUTSIDE, Autocast, Region
from fxprune.tracing.places import line_running

__all__ = ["Contexts"]

_BACKENDS = {"flash": "FLASH_ATTENTION", "mem_efficient": "EFFICIENT_ATTENTION", "math": "MATH", "cudnn": "CUDNN_ATTENTION"}
_BY_DEFAULT = frozenset("zeros ones empty rand randn linspace logspace eye".split())  # factories of the default dtype
_BY_VALUE = frozenset("arange full tensor as_tensor scalar_tensor".split())  # the same for some arguments


class Contexts:
    """Of one recorder: which contexts model code is in.

    Attributes:
        region: the state that they make.
        caller: what the caller's state is taken to be, where model code asks: whether gradients and autocast are on.
        asked: what model code asked of it: ``"gradients"``, ``"autocast"`` -> the first place that did.
    """

    def __init__(self) -> None:
        self.region = OUTSIDE
        self.caller = {"gradients": True, "autocast": False}
        self.asked: dict[str, str] = {}
        self._open: list[tuple[int, Region]] = []
        self._done = False
        self._modes = _modes()
        self._backends = _backends()
        self._dtype = torch.get_default_dtype()

    def mark(self, node: fx.Node) -> None:
        """Say on a new node in which state it runs.

        Raises:
            TraceError: a mode of PyTorch that is not known would see the operation.
        """
        if self._done:  # somebody kept a proxy, and calls it when nothing is recorded any more
            return
        region = self.region
        if _modes() != self._modes:
            region = self._placed(region)
        name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
        if name == "scaled_dot_product_attention" and (found := _backends()) != self._backends:
            region = replace(region, backends=found)
        if torch.get_default_dtype() is not self._dtype and node.op == "call_function" and node.kwargs.get("dtype") is None:
            self._typed(node, name)
        if region is not OUTSIDE and region != OUTSIDE:
            node.meta["region"] = region

    def _placed(self, region: Region) -> Region:
        """The region with the device that ``with torch.device(...)`` asks for."""
        functions, dispatchers = self._modes
        new = [*torch.overrides._get_current_function_mode_stack()[functions:]]
        new += _get_current_dispatch_mode_stack()[dispatchers:]
        for mode in new:
            if type(mode) is not DeviceContext:
                raise TraceError(
                    f"forward enters {type(mode).__module__}.{type(mode).__qualname__}, a mode that sees every operation of "
                    f"PyTorch and may change it ({line_running()}), which a graph cannot hold: leave it out, or enter it "
                    "around the model"
                )
            region = replace(region, device=str(mode.device))
        return region

    def _typed(self, node: fx.Node, name: str) -> None:
        if name in _BY_VALUE:
            raise TraceError(
                f"forward calls torch.{name} without a dtype while the default dtype is another than outside "
                f"({line_running()}): say dtype=..."
            )
        if name in _BY_DEFAULT:
            node.kwargs = {**node.kwargs, "dtype": torch.get_default_dtype()}

    def finish(self) -> None:
        """Check that forward left all as it was.

        Raises:
            TraceError: it did not; the default dtype is set right again.
        """
        self._done = True
        left = []
        if self.region != OUTSIDE:
            left = self.region.headers()
        if torch.get_default_dtype() is not self._dtype:
            left.append(f"torch.set_default_dtype({torch.get_default_dtype()})")
            torch.set_default_dtype(self._dtype)
        if _modes() != self._modes or _backends() != self._backends:
            left.append("another mode of PyTorch")
        if left:
            raise TraceError(
                f"forward returns with {', '.join(left)} still in force for its caller, which a graph cannot do: use a with "
                "block, which ends"
            )

    # -- what contexts do ---------------------------------------------------------------------------------------------

    def enter(self, context: Any, region: Region) -> None:
        self._open.append((id(context), self.region))
        self.region = region

    def leave(self, context: Any) -> bool:
        """Whether the context was entered here."""
        for at in reversed(range(len(self._open))):
            key, before = self._open[at]
            if key == id(context):
                del self._open[at]
                self.region = before
                return True
        return False

    def gradients(self, switch: Any) -> None:
        """``torch.set_grad_enabled(switch)``, called; set back to what it was found to be, it is the caller's again."""
        switched = self.region.grad is not None and "gradients" in self.asked
        back = switched and bool(switch) is self.caller["gradients"]
        self.region = replace(self.region, grad=None if back else bool(switch))

    # -- what model code asks -------------------------------------------------------------------------------------------

    def grad_enabled(self) -> bool:
        grad = self.region.grad
        return self._ask("gradients") if grad is None else bool(grad)

    def inference_enabled(self) -> bool:
        return False if self.region.inference is None else self.region.inference

    def autocast_of(self, device: str) -> Autocast | None:
        return next((a for a in self.region.autocast if a.device == device), None)

    def autocast_enabled(self, device: str = "cuda") -> bool:
        found = self.autocast_of(device)
        return self._ask("autocast") if found is None else found.enabled

    def _ask(self, what: str) -> bool:
        self.asked.setdefault(what, line_running())
        return self.caller[what]


def _modes() -> tuple[int, int]:
    return torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()


def _backends() -> tuple[str, ...]:
    return tuple(name for key, name in _BACKENDS.items() if getattr(torch._C, f"_get_{key}_sdp_enabled")())
