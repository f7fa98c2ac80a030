"""Classes of other libraries that derive from batch norm: which of them do, in both modes, what the class of torch.nn does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

__all__ = ["STATISTICS", "counted_apart", "normalises_as_its_base", "plain_base"]

STATISTICS = ("running_mean", "running_var", "weight", "bias")
_NAMES = ("input", *STATISTICS, "training", "momentum", "eps")


def plain_base(module: nn.Module) -> type[nn.Module] | None:
    """The class of torch.nn that a batch norm derives from; None for one that no class of torch.nn could stand for."""
    found = next(c for c in type(module).__mro__ if c.__module__.startswith("torch.nn."))
    return None if found is nn.modules.batchnorm._BatchNorm else found


def normalises_as_its_base(module: nn.modules.batchnorm._BatchNorm, args: Any, kwargs: Any) -> bool:
    """Whether a batch norm's own code calls `F.batch_norm` once, in either mode with what `plain_base` would give it, and does
    the same else in both.

    Args:
        args, kwargs: of a call, with tensors on the meta device.
    """
    base = plain_base(module)
    if base is None:
        return False
    mode = module.__dict__["training"]
    seen = []
    try:
        for training in (False, True):
            module.__dict__["training"] = training
            with counted_apart(module) as count, _Watch(module, base) as watch:
                module.forward(*args, **kwargs)
            counts = training and module.track_running_stats and count is not None
            if watch.calls != 1 or not watch.faithful or (count is not None and int(count) != counts):
                return False
            seen.append(watch.others)
    except Exception:  # it needs what it has when it is recorded: its code is followed
        return False
    finally:
        module.__dict__["training"] = mode
    return seen[0] == seen[1]


@contextmanager
def counted_apart(module: nn.Module) -> Iterator[Tensor | None]:
    """Inside, the module counts its batches in a tensor of its own, from 0, which is handed out; None where it counts none."""
    counter = module._buffers.get("num_batches_tracked")
    if counter is None:
        yield None
        return
    module._buffers["num_batches_tracked"] = count = torch.tensor(0)
    try:
        yield count
    finally:
        module._buffers["num_batches_tracked"] = counter


class _Watch(TorchFunctionMode):
    """What a batch norm's forward calls.

    Attributes:
        calls: of `F.batch_norm`.
        faithful: each was with the arguments of the class of torch.nn.
        others: the other functions, with those of their arguments that are no tensors and no flags.
    """

    def __init__(self, module: Any, base: Any) -> None:
        super().__init__()
        self.module, self.base = module, base
        self.calls, self.faithful = 0, True
        self.others: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm:
            self.calls += 1
            given = dict(zip(_NAMES, args, strict=False)) | kwargs
            self.faithful &= self._as_the_base(given)
            return self._unmeasured(given)
        elif not any(a is self.module._buffers.get("num_batches_tracked") for a in args):
            plain = [a for a in tree_leaves((args, kwargs)) if not isinstance(a, (Tensor, bool))]
            self.others.append((func, plain))
        return func(*args, **kwargs)

    def _unmeasured(self, given: dict[str, Any]) -> Tensor:
        """What looks like the result: the function itself takes thousands of calls on the meta device."""
        if self.module.training:
            F._verify_batch_size(given["input"].size())  # type: ignore[attr-defined]
        return torch.empty_like(given["input"])

    def _as_the_base(self, given: dict[str, Any]) -> bool:
        module = self.module
        self.base._check_input_dim(module, given["input"])
        batch = module.training or (module.running_mean is None and module.running_var is None)
        kept = not module.training or module.track_running_stats
        momentum = module.momentum
        if momentum is None:
            momentum = 1.0 if module.training and module.track_running_stats else 0.0
        expected = {name: getattr(module, name) for name in STATISTICS}
        if not kept:
            expected |= {"running_mean": None, "running_var": None}
        same = all(given.get(name) is value for name, value in expected.items())
        used = batch and kept  # the momentum
        return (
            same
            and bool(given.get("training", False)) == batch
            and given.get("eps", 1e-5) == module.eps
            and (not used or given.get("momentum", 0.1) == momentum)
        )
