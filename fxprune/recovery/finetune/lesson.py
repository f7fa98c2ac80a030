"""From a batch as it was read to what the slim model is trained on: checked, moved, mixed, and shown to the teacher."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fxprune import nested
from fxprune.errors import InputError, PruneError, said
from fxprune.recovery.finetune.augment import moved
from fxprune.recovery.finetune.data import Part
from fxprune.recovery.finetune.losses import Objective
from fxprune.recovery.finetune.mixing import Mixer
from fxprune.recovery.finetune.options import FinetuneOptions
from fxprune.state import deep_copy

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Lessons"]

_IGNORED = -100  # the label that PyTorch's cross entropy leaves out


class Lessons:
    """
    Args:
        slim: as the user gave it; the first batch is tried on a copy.
    """

    def __init__(self, slim: nn.Module, teacher: nn.Module | None, objective: Objective, accelerator: Accelerator) -> None:
        self.slim, self.objective, self.accelerator = slim, objective, accelerator
        self.teacher = None
        if teacher is not None and objective.soft_weight > 0:
            self.teacher = deep_copy(teacher).to(accelerator.device).eval().requires_grad_(False)
        self.mixer: Mixer | None = None
        self.shape: tuple[int, ...] | None = None  # of the output for one image, once known

    def __call__(self, part: Part, options: FinetuneOptions, step: int) -> tuple[Part, Tensor | None]:
        """The batch to train on, on the device, and the teacher's logits for it.

        Raises:
            InputError: the model, the teacher and the batch do not fit together.
        """
        part = replace(part, labels=self._labels(part.labels))
        device = self.accelerator.device
        args, named = nested.map(
            lambda v: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v, (part.args, part.named)
        )
        part = replace(part, args=tuple(args), named=named)
        if self.shape is None:
            self._try(part, options)
        self._check_range(part.labels)
        part.labels = nested.map(lambda v: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v, part.labels)
        if options.shift or options.flip:
            part = _with_images(part, moved(_images(part), options, step, part.rows, part.total))
        if self.mixer is not None:
            images, part.labels = self.mixer(_images(part), part.labels, step)
            part = _with_images(part, images)
        if self.teacher is None:
            return part, None
        with torch.no_grad(), self.accelerator.autocast():
            return part, self.teacher(*part.args, **part.named)

    def _labels(self, labels: Any) -> Any:
        """Labels as cross entropy takes them; as they are for a loss of the user's own."""
        if self.objective.soft_weight == 1:
            return None
        if labels is None:
            raise InputError("the batches hold no labels: give (images, labels), or a teacher and distill_weight=1")
        if self.objective.loss is not None:
            return labels
        try:
            labels = torch.as_tensor(labels)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"labels must be class numbers, not {type(labels).__name__}: give a loss of your own") from error
        return labels if labels.is_floating_point() else labels.long()

    def _try(self, part: Part, options: FinetuneOptions) -> None:
        """Run the first batch through copies, so that what does not fit is said before any step is done."""
        output = self._tried(self.slim, "the model", part)
        logits = isinstance(output, Tensor) and output.dim() >= 2
        if not logits and (self.objective.loss is None or self.objective.soft_weight > 0):
            raise InputError(
                "the model must give a tensor of logits [images, classes, ...] for cross entropy and distillation, not "
                f"{_kind(output)}: give a loss of your own, and no teacher"
            )
        self.shape = tuple(output.shape[1:]) if isinstance(output, Tensor) else ()
        if self.teacher is not None:
            taught = self._tried(self.teacher, "the teacher", part)
            if not isinstance(taught, Tensor) or taught.shape != output.shape:
                raise InputError(f"the teacher must give what the model gives, {_kind(output)}, not {_kind(taught)}")
        if options.shift or options.flip or options.cutmix or options.mixup:
            images = _images(part)
            if images.dim() != 4 or not images.is_floating_point():
                raise InputError(
                    f"shift, flip, mixup and cutmix need float images [n, channels, height, width], not {_kind(images)}"
                )
        if self.objective.loss is None and part.labels is not None:
            self._check_labels(part.labels, output)
        if options.mixup or options.cutmix:
            if not isinstance(part.labels, Tensor) or part.labels.dim() != 1 or part.labels.is_floating_point():
                raise InputError("mixup and cutmix need one class number an image as labels")
            self.mixer = Mixer(options, self.shape[0])

    def _tried(self, model: nn.Module, name: str, part: Part) -> Any:
        copy = deep_copy(model).to(self.accelerator.device)
        try:
            with torch.no_grad(), self.accelerator.autocast():
                try:
                    return copy.eval()(*part.args, **part.named)
                except PruneError:  # of a model whose evaluation could not be recorded
                    return copy.train()(*part.args, **part.named)
        except Exception as error:
            raise InputError(f"{name} fails on the first batch: {type(error).__name__}: {said(error)}") from error

    def _check_labels(self, labels: Tensor, output: Tensor) -> None:
        wanted = output.shape if labels.is_floating_point() else (output.shape[0], *output.shape[2:])
        if labels.shape != wanted:
            raise InputError(
                f"labels of shape {tuple(labels.shape)} do not fit an output of shape {tuple(output.shape)}: class numbers "
                f"{(output.shape[0], *output.shape[2:])}, or shares of classes {tuple(output.shape)}"
            )

    def _check_range(self, labels: Any) -> None:
        """On the CPU, where a look at the values costs nothing, and before a GPU would end the process for it."""
        if self.objective.loss is not None or not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_cuda:
            return
        assert self.shape
        wrong = labels[((labels < 0) | (labels >= self.shape[0])) & ((labels != _IGNORED) | (self.mixer is not None))]
        if len(wrong):
            raise InputError(f"a label is {int(wrong[0])}, but the model knows {self.shape[0]} classes, from 0")


def _images(part: Part) -> Tensor:
    image = part.args[0] if part.args else next(iter(part.named.values()))
    if not isinstance(image, Tensor):
        raise InputError(f"the first input of a batch must be a tensor of images, not {_kind(image)}")
    return image


def _with_images(part: Part, images: Tensor) -> Part:
    if part.args:
        return replace(part, args=(images, *part.args[1:]))
    first = next(iter(part.named))
    return replace(part, named={**part.named, first: images})


def _kind(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
