"""Parts of a model that hold nothing to record."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from fxprune.errors import InputError

__all__ = ["refuse_parts"]


def refuse_parts(model: nn.Module) -> None:
    """Compiled code has no Python forward to record, and a lazy layer no shapes yet.

    Raises:
        InputError: a part of the model is either; the message names it and says what to give.
    """
    for name, part in model.named_modules():
        what = f"the part {name!r}" if name else "the model"
        if any(is_lazy(t) for t in (*part._parameters.values(), *part._buffers.values())):
            raise InputError(f"{what} has parameters that no call has given a shape yet: run the model once on an example")
        if isinstance(part, torch.jit.ScriptModule):
            raise InputError(f"{what} is TorchScript, which holds no Python code: give the nn.Module that it was made from")
        if isinstance(getattr(part, "_orig_mod", None), nn.Module):  # what torch.compile returns
            raise InputError(f"{what} is compiled: give the module inside, its ._orig_mod, and compile the result")
