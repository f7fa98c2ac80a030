"""The optimizer, by name."""

from __future__ import annotations

import torch
from torch import nn

from fxprune.errors import InputError
from fxprune.recovery.finetune.options import FinetuneOptions

__all__ = ["optimizer_of"]


def optimizer_of(model: nn.Module, options: FinetuneOptions) -> torch.optim.Optimizer:
    """SGD or AdamW over what may be trained; parameters of one axis (norms and biases) without decay, if so asked.

    >>> from fxprune.recovery.finetune.options import FinetuneOptions
    >>> [group["weight_decay"] for group in optimizer_of(net, FinetuneOptions()).param_groups]
    [0.0005, 0.0]

    Raises:
        InputError: no parameter may be trained.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise InputError("no parameter of the model may be trained: all have requires_grad=False")
    spared = [] if options.decay_norms else [p for p in trained if p.dim() <= 1]
    plain = trained if options.decay_norms else [p for p in trained if p.dim() > 1]
    groups = [
        {"params": params, "weight_decay": decay} for params, decay in ((plain, options.weight_decay), (spared, 0.0)) if params
    ]
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=options.lr)
    return torch.optim.SGD(groups, lr=options.lr, momentum=options.momentum, nesterov=options.nesterov and options.momentum > 0)
