"""One process or many, by accelerate: where the model lies, and norms that see the batch of all processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from fxprune.errors import InputError, PruneError, said
from fxprune.recovery.finetune.options import FinetuneOptions

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["accelerator_of", "synchronise_norms"]

_NAMES = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
_KINDS = ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_XPU", "MULTI_NPU")  # one process, or data in parallel


@contextmanager
def accelerator_of(options: FinetuneOptions) -> Iterator[Accelerator]:
    """An accelerator for one run. What accelerate keeps for the whole process is afterwards as it was, but for the connection
    between processes, which stays.

    Raises:
        PruneError: accelerate is not installed.
        InputError: it cannot do what is asked for on this machine.
    """
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState, GradientState, PartialState
        from accelerate.utils import GradientAccumulationPlugin
    except ImportError as error:
        raise PruneError('fine-tuning needs accelerate: pip install "fxprune[train]"') from error
    ours, alone = not AcceleratorState._shared_state, not PartialState._shared_state
    # Without a GPU accelerate must be told, or it would connect no processes.
    cpu = options.device == "cpu" or not torch.accelerator.is_available()
    try:
        once = GradientAccumulationPlugin(num_steps=1)  # whatever the environment says
        made = Accelerator(mixed_precision=_NAMES[options.precision], cpu=cpu, gradient_accumulation_plugin=once)
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise InputError(f"accelerate cannot be set up with precision={options.precision!r}: {said(error)}") from error
    try:
        _check(made, options)
        yield made
    finally:
        if ours:  # else a later run in this process could not have another precision
            AcceleratorState._reset_state(reset_partial_state=alone and made.num_processes == 1)
            GradientState._reset_state()


def _check(made: Accelerator, options: FinetuneOptions) -> None:
    kind = made.distributed_type.name
    if kind not in _KINDS:
        raise InputError(f"finetune runs on one process or on several with a whole model each, not by {kind}")
    if options.device == "cpu" and made.device.type != "cpu":
        raise InputError(f"device='cpu', but accelerate was set up for {made.device} in this process before")
    started = os.environ.get("WORLD_SIZE", "1")
    if started.isdecimal() and int(started) > 1 and made.num_processes == 1:
        raise InputError(f"{started} processes were started, but accelerate was set up for one of them alone: start them anew")
    if options.precision == "fp16" and made.device.type == "cpu":
        raise InputError("precision='fp16' needs a GPU: give 'bf16' or 'fp32' on a CPU")


def synchronise_norms(model: nn.Module) -> int:
    """Have the batch norms of a model take the statistics of the batches of all processes, on any device; how many they are.

    PyTorch's SyncBatchNorm does the same on GPUs alone. The model's own modules stay; their ``forward`` is shadowed.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and not isinstance(m, nn.SyncBatchNorm)]
    for norm in norms:
        norm.__dict__["forward"] = MethodType(_synchronised, norm)
    return len(norms)


def _synchronised(norm: _BatchNorm, x: Tensor) -> Tensor:
    """Batch normalisation ``[n, channels, ...]``, mean and variance over all processes (Ioffe & Szegedy 2015, algorithm 1)."""
    norm._check_input_dim(x)
    if not norm.training and norm.running_mean is not None:
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
    axes = [0, *range(2, x.dim())]
    values = x if x.dtype is torch.float64 else x.float()
    count = values.new_tensor([x.numel() / x.shape[1]])
    sums = _summed(torch.cat([values.sum(axes), count]))
    number = sums[-1].detach()
    shape = [1, -1] + [1] * (x.dim() - 2)
    mean = sums[:-1] / number
    centred = values - mean.view(shape)
    var = _summed(centred.square().sum(axes)) / number
    if norm.training and norm.track_running_stats:
        _remember(norm, mean.detach(), var.detach() * number / (number - 1))
    y = centred * torch.rsqrt(var + norm.eps).view(shape)
    if norm.affine:
        y = y * norm.weight.view(shape) + norm.bias.view(shape)
    return y.to(x.dtype)


def _remember(norm: _BatchNorm, mean: Tensor, var: Tensor) -> None:
    """Move the running statistics, as PyTorch's norms do."""
    assert norm.running_mean is not None and norm.running_var is not None
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    momentum = norm.momentum
    if momentum is None:
        momentum = 1.0 / float(norm.num_batches_tracked)  # type: ignore[arg-type]
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
    norm.running_var.lerp_(var.to(norm.running_var.dtype), momentum)


class _Summed(torch.autograd.Function):
    """The sum over processes; so is the gradient's, as each process's loss depends on what all put in."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        result = value.clone()
        torch.distributed.all_reduce(result)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        result = grad.clone()
        torch.distributed.all_reduce(result)
        return result


def _summed(value: Tensor) -> Tensor:
    summed: Tensor = _Summed.apply(value)
    return summed
