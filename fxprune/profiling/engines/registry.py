"""Names of engines, and the engines that they stand for."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Any

import torch

from fxprune.errors import InputError, nearest, shown
from fxprune.profiling.engines.base import Engine

__all__ = ["engine_of", "names"]

_NAMES = {
    "eager": "fxprune.profiling.engines.eager:Eager",
    "compile": "fxprune.profiling.engines.compiled:Compiled",
    "onnxruntime": "fxprune.profiling.engines.onnx:OnnxRuntime",
}


def names() -> list[str]:
    """All engines."""
    return [*_NAMES]


def engine_of(name: Any, device: Any = None, threads: Any = None, clock: Callable[[], float] = time.perf_counter) -> Engine:
    """The engine of a name.

    Args:
        device: as PyTorch names it; the CPU, if not given.
        threads: of the processor; as many as PyTorch uses now, if not given.

    Raises:
        InputError: there is no such engine or device, or something that it needs is missing.
    """
    if not isinstance(name, str) or name not in _NAMES:
        known = ", ".join(map(repr, _NAMES))
        raise InputError(f"engine must be one of {known}, not {shown(name)}{nearest(name, list(_NAMES))}")
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 1024):
        raise InputError(f"threads must be a whole number of at least 1, not {shown(threads)}")
    module, _, kind = _NAMES[name].partition(":")
    made: type[Engine] = getattr(importlib.import_module(module), kind)
    engine = made(_device(device), threads or torch.get_num_threads(), clock)
    engine.check()
    return engine


def _device(given: Any) -> torch.device:
    try:
        device = torch.device("cpu" if given is None else given)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device must be 'cpu' or 'cuda', as PyTorch names it, not {shown(given)}") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"latency is measured on 'cpu' and 'cuda', not on {str(given)!r}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no CUDA device here that PyTorch can use: leave device out, or say 'cpu'")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"there is no device {str(given)!r}: PyTorch sees {torch.cuda.device_count()}")
    return device
