"""`fxprune.finetune`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.errors import InputError, shown
from fxprune.inputs.acceptance import check_model, check_values, some
from fxprune.inputs.paths import folder_of
from fxprune.options import check_flag
from fxprune.planning.report import report_of
from fxprune.recovery.finetune import chance
from fxprune.recovery.finetune.distributed import accelerator_of
from fxprune.recovery.finetune.loop import Task, Training
from fxprune.recovery.finetune.options import FinetuneOptions, options_of

__all__ = ["finetune"]


def finetune(
    slim: nn.Module,
    loader: Any,
    *,
    teacher: nn.Module | None = None,
    loss: Callable[[Any, Any], Tensor] | None = None,
    options: FinetuneOptions | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    sparsity: Callable[[nn.Module], Any] | None = None,
    progress: bool = True,
    **settings: Any,
) -> nn.Module | Any:
    """Return a trained copy of a slim model; `slim` and `teacher` are untouched, and so are the global random generators.

    Runs on Hugging Face accelerate (``pip install "fxprune[train]"``): in one process, or in each that ``accelerate launch``
    started, which then share every batch. What is minimised is ``(1 - w) CE(labels) + w T^2 KL(teacher, slim)``, the second
    term with a teacher alone: Hinton et al. 2015, see `fxprune.recovery.finetune.losses`.

    >>> import fxprune
    >>> slim = fxprune.prune(net, 0.5, x)
    >>> data = torch.utils.data.TensorDataset(torch.randn(64, 8), torch.arange(64) % 2)
    >>> trained = finetune(slim, data, teacher=net, epochs=2, batch_size=16, lr=0.05)
    >>> len(trained.meta["fxprune"].finetuning["epochs"])
    2

    Args:
        slim: what `prune`, `apply` or `load` gave, or any model of plain tensors in float32.
        loader: a Dataset of (image, label), of which the order and all chance follow from the seed; or any iterable of batches
            (images, labels), taken as they are: one that can be read again each epoch.
        teacher: the dense model; it sees the same images as `slim`, in evaluation mode.
        loss: of output and labels, the mean over a batch, in the place of cross entropy. With mixup, labels are shares of
            classes ``[n, classes]``.
        options, settings: what else there is to say, as an object or by name: see `FinetuneOptions`.
        out: folder for ``checkpoint.safetensors`` and ``log.jsonl``; None writes nothing. All processes must see it.
        resume: go on from the checkpoint in `out`, if there is one. On the CPU, with the same number of threads, the weights
            are then those of a run that was not stopped, bit for bit.
        callback: called after each step, in each process, with ``epoch``, ``step``, ``lr`` and ``loss``; True ends the run (in
            all processes at once, please), which can be resumed.
        evaluate: called after each epoch, in the first process, with the model in evaluation mode; the numbers that it gives go
            into the history.
        sparsity: sparse learning before pruning: a function that gets the copy that is trained and gives a method for it, as
            ``lambda model: fxprune.sparsity.GroupPenalty(model, x)``. Its numbers go into the history.
        progress: a bar, where stderr is a terminal.

    Returns:
        A copy of `slim`, in its mode and on its device. ``trained.meta["finetuning"]`` says what was done, and so does
        ``trained.meta["fxprune"].finetuning`` where `slim` has a report: ``epochs`` with loss, accuracy on the training
        images, learning rate and seconds, ``options``, ``steps``, and ``promise``: what a resumed run can rely on.

    Raises:
        InputError: an argument is wrong, the first batch does not fit, no layer can be over-parameterised as asked, or the
            checkpoint is of another run.
        PruneError: accelerate is missing, the loss is no number any more, or the disk refuses.
    """
    chosen = options_of(options, settings)
    _check(slim, teacher)
    for name, hook in (("loss", loss), ("callback", callback), ("evaluate", evaluate), ("sparsity", sparsity)):
        if hook is not None and not callable(hook):
            raise InputError(f"{name} must be a function, not {shown(hook)}")
    if sparsity is not None and chosen.overparameterize is not None:
        raise InputError("sparsity makes weights vanish, not factors of them: leave it or overparameterize out")
    folder, resume = folder_of("out", out), check_flag(resume, "resume")
    found = None if folder is None else folder / "checkpoint.safetensors"
    if resume and folder is None:
        raise InputError("resume=True needs the folder of the run: give out")
    if found is not None and found.exists() and not resume:
        raise InputError(
            f"{str(folder)!r} holds the checkpoint of a run: go on with resume=True (--resume in a shell), or give another out"
        )
    task = Task(slim, loader, teacher, loss, chosen, folder, callback, evaluate, check_flag(progress, "progress"), sparsity)
    with chance.kept(), accelerator_of(chosen) as accelerator:
        training = Training(task, accelerator)
        if found is not None and found.exists():
            training.restore(found)
        training.run()
        return _handed_over(training)


def _check(slim: Any, teacher: Any) -> None:
    check_model(slim)
    check_values(slim, "train a model that has some")
    if teacher is not None:
        if not isinstance(teacher, nn.Module):
            raise InputError(f"teacher must be an nn.Module, not {shown(teacher)}")
        check_model(teacher)
        check_values(teacher, "leave the teacher out")
    report = report_of(slim)
    if report is not None and "training" in report.refused:
        raise InputError(f"the model was recorded in evaluation alone and cannot be trained: {report.refused['training']}")
    low = next((n for n, p in slim.named_parameters() if p.dtype in (torch.float16, torch.bfloat16)), None)
    if low is not None:
        raise InputError(f"{low!r} is in half precision, in which small steps vanish: give slim.float(), and precision='bf16'")
    # Parameters alone: a mask of attention, which is a buffer, may well hold infinity.
    wrong = [name for name, p in slim.named_parameters() if not torch.isfinite(p).all()]
    if wrong:
        raise InputError(f"training cannot start from weights that are NaN or infinite: {some(wrong)}; load other weights")


def _handed_over(training: Training) -> nn.Module:
    """The trained copy, with its history."""
    trained, slim = training.result(), training.task.slim
    record = {
        "options": training.options.to_json(),
        "epochs": training.history,
        "steps": training.step,
        "steps_per_epoch": training.batches.steps,
        "processes": training.place[1],
        "resumed": training.resumed,
        "stopped": training.stopped,
        "averaged": training.ema is not None,
        "over_parameterized": training.factors,
        "synchronised_norms": training.synchronised,
        "sparsity": training.described,
        "promise": training.batches.promise,
        "seconds": round(training.seconds, 3),
    }
    meta = {**getattr(slim, "meta", {}), "finetuning": record}
    report = report_of(slim)
    if report is not None:
        meta["fxprune"] = replace(report, finetuning=record)
    trained.meta = meta  # type: ignore[assignment]
    return trained
