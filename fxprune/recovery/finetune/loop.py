"""The training itself."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from fxprune.errors import InputError, PruneError, shown
from fxprune.options import real
from fxprune.progress import Bar
from fxprune.recovery.finetune import chance, checkpoint
from fxprune.recovery.finetune.data import Part, batches_of
from fxprune.recovery.finetune.distributed import synchronise_norms
from fxprune.recovery.finetune.journal import Journal
from fxprune.recovery.finetune.lesson import Lessons
from fxprune.recovery.finetune.losses import Objective
from fxprune.recovery.finetune.meter import Meter
from fxprune.recovery.finetune.optimizers import optimizer_of
from fxprune.recovery.finetune.options import FinetuneOptions
from fxprune.recovery.finetune.schedule import rate
from fxprune.recovery.finetune.sparse import checked_sparsity
from fxprune.recovery.over_parameters import folded_tensors, with_factors
from fxprune.state import deep_copy, named_tensors
from fxprune.tracing.graphs.one_mode import in_its_mode

if TYPE_CHECKING:
    from accelerate import Accelerator

    from fxprune.recovery.sparsity.base import Sparsity

__all__ = ["Task", "Training"]


@dataclass(eq=False)
class Task:
    """What a user asks for: the arguments of `fxprune.finetune`."""

    slim: nn.Module
    loader: Any
    teacher: nn.Module | None
    loss: Callable[[Any, Any], Tensor] | None
    options: FinetuneOptions
    folder: Path | None
    callback: Callable[[dict[str, Any]], Any] | None
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None
    progress: bool
    sparsity: Callable[[nn.Module], Any] | None = None


class Training:
    """A run, from its first step or from a checkpoint on."""

    def __init__(self, task: Task, accelerator: Accelerator) -> None:
        self.task, self.accelerator, self.options = task, accelerator, task.options
        self.place = accelerator.process_index, accelerator.num_processes
        self.batches = batches_of(task.loader, task.options, *self.place)
        self.model = deep_copy(task.slim)
        self.factors = None if task.options.overparameterize is None else with_factors(self.model)
        self.model.to(accelerator.device)
        self.ema = _average(self.model, task.options)
        # After the average, which copies the model, and before anything is put on its norms.
        self.sparsity: Sparsity | None = None if task.sparsity is None else checked_sparsity(task.sparsity(self.model))
        self.synchronised = synchronise_norms(self.model) if self.place[1] > 1 and task.options.sync_norms else 0
        optimizer = optimizer_of(self.model, task.options)
        self.names = {id(p): n for n, p in named_tensors(self.model, once=True).items()}
        self.wrapped, self.optimizer = accelerator.prepare(self.model, optimizer)
        self.objective = Objective(task.options, task.teacher is not None, task.loss)
        self.lessons = Lessons(task.slim, task.teacher, self.objective, accelerator)
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self.resumed: list[int] = []
        self.stopped = False
        self.meter = Meter(accelerator.device)
        self.digests = {"slim": checkpoint.digest(task.slim), "teacher": checkpoint.digest(self.lessons.teacher)}
        self.seconds = 0.0

    def run(self) -> None:
        """
        Raises:
            PruneError: the loss is no number any more, or a file cannot be written.
        """
        steps, main = self.batches.steps, self.accelerator.is_main_process
        started = time.perf_counter()
        path = self.task.folder / "log.jsonl" if self.task.folder is not None and main else None
        self.journal = Journal(path, self.step)
        self.journal("resume" if self.step else "begin", self.step, processes=self.place[1], options=self.options.to_json())
        total = self.options.epochs * steps
        with Bar("fine-tuning", total, self.step, shown=self.task.progress and main) as self.bar:
            first, start = divmod(self.step, steps)
            for epoch in range(first, self.options.epochs):
                self._epoch(epoch, start)
                start = 0
                if self.stopped:
                    break
        self.seconds = time.perf_counter() - started
        self.journal("end", self.step, stopped=self.stopped)

    def _epoch(self, epoch: int, start: int) -> None:
        began, every = time.perf_counter(), self.options.checkpoint_every
        self.wrapped.train()
        for module in self.model.modules():
            if isinstance(module, fx.GraphModule):
                in_its_mode(module)
        steps = self.batches.steps
        for number, part in enumerate(self.batches.epoch(epoch, start), start):
            loss = self._step(part)
            self.bar.advance()
            last = number + 1 == steps  # whose checkpoint is that of the epoch
            if not last and self.step % self.options.log_every == 0:
                self._flush()
            if not last and every and self.step % every == 0:
                self.save()
            if self.task.callback is not None:
                told = {"epoch": epoch, "step": self.step, "lr": self._rate(self.step - 1), "loss": float(loss)}
                if self.task.callback(told) is True:
                    self.stopped = True
                    if not last:
                        self.save()
                        return
        self._end_epoch(epoch, time.perf_counter() - began)

    def _step(self, part: Part) -> Tensor:
        """One step of the optimizer; the mean loss of this process's images."""
        step, (process, processes) = self.step, self.place
        part, taught = self.lessons(part, self.options, step)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(step)
        chance.seed_everything(self.options.seed, "step", step, process)
        output = self.wrapped(*part.args, **part.named)
        loss = self.objective(output, part.labels, taught)
        own = len(part.rows)
        # Gradients are averaged over processes: with these weights, that is the mean over all images of the batch.
        self.accelerator.backward(loss * (own * processes / part.total) if processes > 1 else loss)
        if self.sparsity is not None:
            scaler = self.accelerator.scaler
            self.sparsity.before_step(1.0 if scaler is None else scaler.get_scale())
        if self.options.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.options.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.sparsity is not None:
            self.sparsity.after_step()
        self.step += 1
        if self.ema is not None:
            self.ema.update(self.model, self.step)
        loss = loss.detach()
        self.meter.add(loss, output, part.labels, own)
        return loss

    def _rate(self, step: int) -> float:
        return rate(self.options, step, self.batches.steps)

    def _flush(self) -> None:
        """Add up what was seen since the last time, over all processes, and tell it.

        Raises:
            PruneError: the loss is no number any more.
        """
        told = self.meter.flush(self.accelerator)
        if told is None:
            return
        if not math.isfinite(told["loss"]):
            kept = "nothing was kept" if self.task.folder is None else "the checkpoint, if there is one, is from before"
            raise PruneError(f"the loss is no number any more at step {self.step}: give a lower lr, or a clip_norm; {kept}")
        self.bar.say(f"loss {told['loss']:.3f}")
        self.journal("step", self.step, epoch=(self.step - 1) // self.batches.steps, lr=self._rate(self.step - 1), **told)

    def _end_epoch(self, epoch: int, seconds: float) -> None:
        self._flush()
        self.step = (epoch + 1) * self.batches.steps  # an iterable may have ended early
        entry: dict[str, Any] = {"epoch": epoch, **self.meter.end(), "lr": self._rate(self.step - 1)}
        entry["seconds"] = round(seconds, 3)
        if self.sparsity is not None:
            entry["sparsity"] = self.sparsity.progress()
        self.history.append(entry)
        if self.task.evaluate is not None and self.accelerator.is_main_process:
            try:
                model = self.result().to(self.accelerator.device).eval()
                with nullcontext() if self.sparsity is None else self.sparsity.evaluated(model):
                    entry.update(_measured(self.task.evaluate(model)))
            except BaseException:
                self._write()  # what was trained is not lost with it; the others wait below
                raise
        self.save()
        self.journal("epoch", self.step, **entry)

    @property
    def described(self) -> dict[str, Any] | None:
        """The sparse learning as JSON."""
        return None if self.sparsity is None else self.sparsity.describe()

    def result(self) -> nn.Module:
        """A copy of the slim model with the trained weights, the average of them if there is one; second factors are folded."""
        made, source = deep_copy(self.task.slim), self.model if self.ema is None else self.ema.module
        tensors = named_tensors(source, once=True) if self.factors is None else folded_tensors(source)
        checkpoint.fill(made, tensors, "the trained model")
        return made

    def save(self) -> None:
        """Write a checkpoint, if there is a folder for it."""
        if self.task.folder is None:
            return
        self._flush()
        if self.accelerator.is_main_process:
            self._write()
        self.accelerator.wait_for_everyone()

    def _write(self) -> None:
        if self.task.folder is None:
            return
        tensors = {
            "model": named_tensors(self.model, once=True),
            "ema": {} if self.ema is None else named_tensors(self.ema.module, once=True),
            "optimizer": checkpoint.optimizer_tensors(self.optimizer.optimizer, self.names),
            "sparsity": {} if self.sparsity is None else self.sparsity.state_dict(),
        }
        scaler = self.accelerator.scaler
        document = {
            "step": self.step,
            "steps_per_epoch": self.batches.steps,
            "options": self.options.to_json(),
            "processes": self.place[1],
            "history": self.history,
            "resumed": self.resumed,
            "totals": self.meter.totals,
            "scaler": None if scaler is None else scaler.state_dict(),
            "sparsity": self.described,
            **self.digests,
        }
        checkpoint.write(self.task.folder / "checkpoint.safetensors", tensors, document)

    def restore(self, path: Path) -> None:
        """Go on where a checkpoint was written.

        Raises:
            InputError: it is of another run.
        """
        tensors, document = checkpoint.read(path)
        self._check_same(path, document)
        checkpoint.fill(self.model, tensors["model"], f"{str(path)!r}")
        if self.ema is not None:
            checkpoint.fill(self.ema.module, tensors["ema"], f"{str(path)!r}")
        checkpoint.load_optimizer(self.optimizer.optimizer, self.names, tensors["optimizer"])
        if self.sparsity is not None:
            self.sparsity.load_state_dict(tensors["sparsity"])
        if self.accelerator.scaler is not None and document["scaler"]:
            self.accelerator.scaler.load_state_dict(document["scaler"])
        self.step, self.history, self.meter.totals = document["step"], document["history"], document["totals"]
        self.resumed = [*document["resumed"], self.step]

    def _check_same(self, path: Path, document: Mapping[str, Any]) -> None:
        differing = self.options.differing(document["options"])
        if document["steps_per_epoch"] != self.batches.steps:
            differing.append(f"batches of an epoch (then {document['steps_per_epoch']}, now {self.batches.steps})")
        if document.get("sparsity") != self.described:
            differing.append(f"the sparse learning (then {document.get('sparsity')}, now {self.described})")
        differing += [f"the weights of the {name} model" for name, value in self.digests.items() if document[name] != value]
        if differing:
            raise InputError(
                f"{str(path)!r} is of another run: {', '.join(differing)}; give what it was begun with, or another out"
            )


def _average(model: nn.Module, options: FinetuneOptions) -> Any:
    """timm's moving average of a model, or None."""
    if not options.ema:
        return None
    from timm.utils.model_ema import ModelEmaV3

    # The average of infinity (in a mask of attention) with itself would be NaN: then buffers are taken as they are.
    masked = any(b.is_floating_point() and not torch.isfinite(b).all() for b in model.buffers())
    return ModelEmaV3(model, decay=options.ema, use_warmup=options.ema_warmup, exclude_buffers=masked)


def _measured(given: Any) -> dict[str, float]:
    if not isinstance(given, Mapping) or any(not isinstance(k, str) or real(v) is None for k, v in given.items()):
        raise InputError(f"evaluate must give numbers by name, as {{'top-1': 0.9}}, not {shown(given)}")
    return {name: float(value) if math.isfinite(value) else None for name, value in given.items()}  # type: ignore[misc]
