"""The learning rate of a step: a function of its number alone, so that a resumed run needs no state for it."""

from __future__ import annotations

import math

from fxprune.recovery.finetune.options import FinetuneOptions

__all__ = ["rate"]


def rate(options: FinetuneOptions, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step, counted from 0.

    While ``step < W = warmup_steps`` the rate rises in equal parts, ``lr (step + 1) / W``, and reaches `lr` in the last of them
    (Goyal et al. 2017, section 2.2). After it, with ``T`` steps in all:

    - ``cosine``: ``lr_min + (lr - lr_min) (1 + cos(pi (step - W) / (T - W))) / 2`` (Loshchilov & Hutter 2017, equation 5,
      without restarts);
    - ``step``: ``lr gamma^k`` after the k-th milestone;
    - ``constant``: `lr`.

    >>> options = FinetuneOptions(epochs=2, lr=1.0, warmup_steps=2)
    >>> [round(rate(options, step, 4), 3) for step in range(8)]
    [0.5, 1.0, 1.0, 0.933, 0.75, 0.5, 0.25, 0.067]
    """
    if step < options.warmup_steps:
        return options.lr * (step + 1) / options.warmup_steps
    if options.schedule == "cosine":
        left = options.epochs * steps_per_epoch - options.warmup_steps
        share = (step - options.warmup_steps) / left
        return options.lr_min + (options.lr - options.lr_min) * (1 + math.cos(math.pi * share)) / 2
    if options.schedule == "step":
        return options.lr * options.gamma ** sum(step >= m * steps_per_epoch for m in options.milestones)
    return options.lr
