"""What runs of a model cost: multiplications and additions, and seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from fxprune.tracing.dispatch_mode import DispatchMode

__all__ = ["macs_of", "seconds_in_turns"]


def macs_of(run: Callable[[], Any]) -> int:
    """Multiply-accumulates that a call does, by PyTorch's own formulas (`torch.utils.flop_counter`): those of matrix products,
    convolutions and attention.

    >>> macs_of(lambda: torch.zeros(5, 8) @ torch.zeros(8, 3))
    120
    """
    fast = torch.backends.mha.get_fastpath_enabled()  # kernels of whole encoder layers, of which no formula is known
    counter = _Flops()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), counter:
            run()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.flops // 2


_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # has a formula from PyTorch 2.15 on alone


class _Flops(DispatchMode):
    """`torch.utils.flop_counter.FlopCounterMode` without its hooks, which fail on a parameter that is passed to a module."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        from torch.utils.flop_counter import flop_registry

        super().__init__()
        known = {_CPU_ATTENTION: flop_registry[torch.ops.aten._scaled_dot_product_flash_attention]}
        self.flops, self.formulas = 0, known | flop_registry

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        formula = self.formulas.get(getattr(func, "_overloadpacket", None))
        if formula is None and isinstance(func, torch._ops.OpOverload):
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        found = func(*args, **kwargs)
        if formula is not None:
            self.flops += int(formula(*args, **kwargs, out_val=found))
        return found


def seconds_in_turns(
    runs: Sequence[Callable[[], Any]], device: torch.device, rounds: int, most: float = 20.0
) -> list[list[float]]:
    """Seconds of each call, measured in turns, so that a busy machine slows all alike; a first round warms up.

    Every second round goes backwards: what runs first in a round has no lasting advantage.

    Args:
        runs: calls without arguments.
        device: whose work is waited for.
        rounds: how often each runs.
        most: seconds after which no new round begins, once there were three.

    Returns:
        For each call the seconds of its rounds, in the order of `runs`.
    """
    found: list[list[float]] = [[] for _ in runs]
    begin = time.perf_counter()
    with torch.no_grad():
        for turn in range(rounds + 1):
            if turn > 3 and time.perf_counter() - begin > most:
                break
            for place in range(len(runs))[:: 1 if turn % 2 else -1]:
                _wait(device)
                start = time.perf_counter()
                runs[place]()
                _wait(device)
                if turn:
                    found[place].append(time.perf_counter() - start)
    return found


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
