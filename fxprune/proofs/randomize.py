"""Random values for every parameter: default initialisation hides errors."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["randomize"]


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter and running statistic of `model` random values of amplitude about 1, in place.

    Default initialisation hides errors (zero tables, unit scales, weights of 0.02). Weights of layers are scaled by
    their fan-in, so that activations stay near 1. Returns the model.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: Tensor, std: float) -> None:
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * std)

    with torch.no_grad():
        for _, tensor in model.named_parameters():
            shape = tensor.shape
            if not tensor.is_floating_point():
                continue
            if len(shape) < 2:
                sign = torch.randint(0, 4, shape, generator=generator).clamp(max=1) * 2 - 1
                tensor.copy_((0.5 + torch.rand(shape, generator=generator)) * sign)
            elif shape[0] == 1 or (min(shape) == 1 and len(shape) < 4):
                normal(tensor, 1.0)
            else:
                normal(tensor, float(np.prod(shape[1:])) ** -0.5)
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
            elif name.endswith("running_mean"):
                normal(buffer, 0.5)
    return model
