"""What a fine-tuning run can be told: one checked object."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from math import isfinite
from numbers import Integral
from typing import Any

from fxprune.errors import InputError, nearest, shown
from fxprune.options import check_flag, check_seed, real, several

__all__ = ["FinetuneOptions", "options_of"]

_CHOICES = {
    "optimizer": ("sgd", "adamw"),
    "schedule": ("cosine", "step", "constant"),
    "precision": ("fp32", "bf16", "fp16"),
    "device": ("auto", "cpu"),
}
_INF = float("inf")
# field -> least value, whether it may be that itself, greatest value, whether it may be that
_RANGES = {
    "lr": (0, False, _INF, False),
    "lr_min": (0, True, _INF, False),
    "gamma": (0, False, 1, True),
    "momentum": (0, True, 1, False),
    "weight_decay": (0, True, _INF, False),
    "label_smoothing": (0, True, 1, False),
    "mixup": (0, True, _INF, False),
    "cutmix": (0, True, _INF, False),
    "mix_prob": (0, True, 1, True),
    "ema": (0, True, 1, False),
    "temperature": (0, False, _INF, False),
    "distill_weight": (0, True, 1, True),
}
_COUNTS = {"epochs": 1, "batch_size": 1, "warmup_steps": 0, "shift": 0, "checkpoint_every": 0, "log_every": 1, "workers": 0}
_FLAGS = ("nesterov", "decay_norms", "ema_warmup", "flip", "drop_last", "sync_norms")
# What may change between a run and its continuation: it has no say in the weights.
_FREE = ("checkpoint_every", "log_every", "workers", "device")


@dataclass(frozen=True)
class FinetuneOptions:
    """How a slim model is trained. The fields are also keyword arguments of `fxprune.finetune`.

    >>> from fxprune.recovery.finetune.options import FinetuneOptions
    >>> FinetuneOptions(epochs=3, optimizer="adamw", lr=1e-3).to_json()["optimizer"]
    'adamw'

    Attributes:
        epochs: passes over the data.
        batch_size: images of a step, over all processes together; of a Dataset only, as an iterable brings its own batches.
        drop_last: of a Dataset: leave out the images that fill no batch (others each epoch, as the order changes).
        steps_per_epoch: of an iterable without a length, which must be told; of others, fewer steps than there are batches.
        optimizer: ``"sgd"`` or ``"adamw"`` (Loshchilov & Hutter 2019; betas 0.9 and 0.999).
        lr: the highest learning rate, for the whole batch: nothing scales it by the number of processes.
        momentum, nesterov: of SGD (Sutskever et al. 2013).
        weight_decay: of SGD added to the gradient, of AdamW decoupled from it.
        overparameterize: ``"do_conv"``: train convolutions with a second factor (`fxprune.over_parameterize`), and return them
            folded. Both factors decay: the second one then draws to 0, where the kernel is the first one.
        decay_norms: whether it also holds for norms and biases (all parameters of one axis).
        schedule: ``"cosine"``, ``"step"`` or ``"constant"``: see `fxprune.recovery.finetune.schedule.rate`.
        warmup_steps: steps over which the rate rises to `lr`.
        lr_min: where the cosine ends.
        milestones: of ``"step"``: epochs before which the rate is multiplied by `gamma`.
        gamma: that factor.
        label_smoothing: share of each label that is spread over all classes (Szegedy et al. 2016, section 7).
        mixup, cutmix: alpha of the Beta distribution of timm's mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019); 0: none.
            With both, each batch is mixed in one of the two ways.
        mix_prob: share of batches that are mixed.
        shift: images are moved by up to so many pixels each way, zeros coming in (He et al. 2016, section 4.2, with 4).
        flip: half of the images are mirrored, left and right.
        ema: decay of timm's moving average of weights and statistics, whose model is then returned; 0: none.
        ema_warmup: let that decay grow with the number of steps, for short runs.
        clip_norm: longest gradient, as the norm of all of them together; None: any.
        temperature, distill_weight: of the distillation from a teacher (`fxprune.recovery.finetune.losses.distillation`).
        precision: ``"fp32"``, or mixed precision in ``"bf16"`` or ``"fp16"``; weights stay in float32.
        sync_norms: with several processes, batch norms see the batch of all of them.
        checkpoint_every: steps between checkpoints; 0: at the end of each epoch alone.
        log_every: steps between lines of the log.
        workers: processes that read a Dataset.
        device: ``"auto"``: the GPU if there is one; ``"cpu"``.
        seed: of order, augmentation, mixing and dropout.

    Raises:
        InputError: a value is out of range or of the wrong kind.
    """

    epochs: int = 10
    batch_size: int = 128
    drop_last: bool = True
    steps_per_epoch: int | None = None
    optimizer: str = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    decay_norms: bool = False
    overparameterize: str | None = None
    schedule: str = "cosine"
    warmup_steps: int = 0
    lr_min: float = 0.0
    milestones: Iterable[int] = ()  # a tuple, once checked
    gamma: float = 0.1
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_prob: float = 1.0
    shift: int = 0
    flip: bool = False
    ema: float = 0.0
    ema_warmup: bool = False
    clip_norm: float | None = None
    temperature: float = 4.0
    distill_weight: float = 0.5
    precision: str = "fp32"
    sync_norms: bool = True
    checkpoint_every: int = 0
    log_every: int = 50
    workers: int = 0
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {name: _chosen(name, getattr(self, name)) for name in _CHOICES}
        checked |= {name: _within(name, getattr(self, name)) for name in _RANGES}
        checked |= {name: _count(name, getattr(self, name), least) for name, least in _COUNTS.items()}
        checked |= {name: check_flag(getattr(self, name), name) for name in _FLAGS}
        checked["seed"] = check_seed(self.seed)
        if self.overparameterize not in (None, "do_conv"):
            raise InputError(f"overparameterize must be 'do_conv' or None, not {shown(self.overparameterize)}")
        checked["milestones"] = tuple(_count("milestones", m, 1) for m in several(self.milestones, "milestones"))
        if self.steps_per_epoch is not None:
            checked["steps_per_epoch"] = _count("steps_per_epoch", self.steps_per_epoch, 1)
        if self.clip_norm is not None:
            checked["clip_norm"] = real(self.clip_norm)
            if checked["clip_norm"] is None or not 0 < checked["clip_norm"] < _INF:
                raise InputError(f"clip_norm must be a number above 0, or None, not {shown(self.clip_norm)}")
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        self._check_together()

    def _check_together(self) -> None:
        if self.nesterov and self.optimizer == "sgd" and self.momentum == 0:
            raise InputError("nesterov needs a momentum above 0: give momentum=0.9, or nesterov=False")
        if self.lr_min > self.lr:
            raise InputError(f"lr_min must be at most lr, {self.lr}, not {self.lr_min}")
        stones = tuple(self.milestones)
        if (self.schedule == "step") != bool(stones):
            raise InputError("schedule='step' and milestones=(epochs, ...) belong together: give both, or neither")
        if any(b <= a for a, b in pairwise(stones)):
            raise InputError(f"milestones must rise, not {shown(list(stones))}")

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint and a report store."""
        return asdict(self) | {"milestones": list(self.milestones)}

    def differing(self, stored: Mapping[str, Any]) -> list[str]:
        """The fields that have a say in the weights and are not as in a stored document."""
        own = self.to_json()
        return [f"{n} (then {stored.get(n)!r}, now {own[n]!r})" for n in own if n not in _FREE and own[n] != stored.get(n)]


def options_of(given: FinetuneOptions | None, settings: Mapping[str, Any]) -> FinetuneOptions:
    """Options as an object, by name, or both: names replace.

    >>> options_of(FinetuneOptions(epochs=3), {"lr": 0.1}).epochs
    3

    Raises:
        InputError: a name is none, or a value is wrong.
    """
    if given is not None and not isinstance(given, FinetuneOptions):
        raise InputError(f"options must be a FinetuneOptions, not {shown(given)}")
    known = [field.name for field in fields(FinetuneOptions)]
    for name in settings:
        if name not in known:
            raise InputError(f"finetune has no option {name!r}{nearest(name, known)}: it has {', '.join(known)}")
    return FinetuneOptions(**settings) if given is None else replace(given, **settings)


def _chosen(name: str, value: Any) -> str:
    known = _CHOICES[name]
    if not isinstance(value, str) or value not in known:
        raise InputError(f"{name} must be {' or '.join(map(repr, known))}, not {shown(value)}{nearest(value, known)}")
    return value


def _within(name: str, value: Any) -> float:
    least, least_too, most, most_too = _RANGES[name]
    number = real(value)
    fits = number is not None and isfinite(number) and (least < number < most or (number, least_too) == (least, True))
    if not fits and not (number == most and most_too):
        low = f"from {least}" if least_too else f"above {least}"
        high = "" if most == _INF else f" to {most}" if most_too else f" and below {most}"
        raise InputError(f"{name} must be a number {low}{high}, not {shown(value)}")
    assert number is not None
    return number


def _count(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise InputError(f"{name} must be a whole number of at least {least}, not {shown(value)}")
    if int(value) >= 2**31:
        raise InputError(f"{name} is too large: {shown(value)}")
    return int(value)
