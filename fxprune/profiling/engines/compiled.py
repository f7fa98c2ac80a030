"""``torch.compile``: kernels that are fused, and on CUDA one graph of all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from fxprune.errors import InputError, said
from fxprune.profiling.engines.base import Inputs, Run, called
from fxprune.profiling.engines.eager import Eager

__all__ = ["Compiled"]


@dataclass(frozen=True)
class Compiled(Eager):
    """Whole models are timed as they are compiled; what a segment takes is learnt by running it eagerly, and the sums are
    fitted to the whole. On CUDA, ``mode="reduce-overhead"`` records the kernels as a CUDA graph."""

    name: ClassVar[str] = "compile"
    setup: ClassVar[float] = 30.0
    own_parts: ClassVar[bool] = False

    def prepared(self, module: fx.GraphModule, inputs: Inputs) -> Run:
        mode = "reduce-overhead" if self.device.type == "cuda" else "default"
        run = called(torch.compile(module, dynamic=False, mode=mode), inputs)
        try:
            run()
        except Exception as error:  # whatever a compiler says
            raise InputError(f"engine 'compile': torch.compile failed: {type(error).__name__}: {said(error)}") from error
        return run
