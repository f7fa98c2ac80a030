"""What is minimised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fxprune.errors import InputError
from fxprune.recovery.finetune.options import FinetuneOptions

__all__ = ["Objective", "distillation"]


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 KL(softmax(t / T) || softmax(s / T))``, the mean over images (and positions, if there are any).

    Hinton, Vinyals & Dean 2015, section 2: the teacher's classes softened by a temperature T (equation 1). They minimise the
    cross entropy with these soft targets, which differs from this divergence by the teacher's entropy, a constant; and multiply
    it by ``T^2``, as its gradients shrink with ``1 / T^2`` (equation 4).

    >>> logits = torch.tensor([[2.0, 0.0, -1.0]])
    >>> distillation(logits, logits, 4.0)
    tensor(0.)

    Args:
        student, teacher: logits ``[images, classes, ...]``.
    """
    log_s = F.log_softmax(student.float() / temperature, 1)
    log_t = F.log_softmax(teacher.float() / temperature, 1)
    return F.kl_div(log_s, log_t, reduction="none", log_target=True).sum(1).mean() * temperature**2


class Objective:
    """The loss of a batch: ``(1 - w) hard + w soft``, ``hard`` from the labels and ``soft`` from the teacher (`distillation`).

    Without a teacher ``w = 0``; else it is `FinetuneOptions.distill_weight`, and with ``w = 1`` no labels are needed.
    ``hard`` is the cross entropy with `FinetuneOptions.label_smoothing`, or the user's own loss.
    """

    def __init__(self, options: FinetuneOptions, taught: bool, loss: Callable[[Any, Any], Tensor] | None) -> None:
        self.temperature = options.temperature
        self.soft_weight = options.distill_weight if taught else 0.0
        self.smoothing = options.label_smoothing
        self.loss = loss

    def __call__(self, output: Any, labels: Any, taught: Tensor | None) -> Tensor:
        """
        Args:
            output: of the slim model.
            labels: class numbers, or shares of classes if the batch is mixed.
            taught: the teacher's logits for the same inputs.
        """
        parts = []
        if self.soft_weight < 1:
            parts.append((1 - self.soft_weight) * self._hard(output, labels))
        if self.soft_weight > 0:
            assert taught is not None
            parts.append(self.soft_weight * distillation(output, taught, self.temperature))
        return torch.stack(parts).sum() if len(parts) > 1 else parts[0]

    def _hard(self, output: Any, labels: Any) -> Tensor:
        if self.loss is None:
            # Mixed labels are smoothed where they are mixed.
            smoothing = 0.0 if labels.is_floating_point() else self.smoothing
            return F.cross_entropy(output.float(), labels, label_smoothing=smoothing)
        loss = self.loss(output, labels)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise InputError(f"loss must give one number, the mean over the batch, not {_kind(loss)}")
        return loss.reshape(())


def _kind(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
