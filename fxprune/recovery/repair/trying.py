"""Several plans tried out: each slim model repaired from some images, and compared with the dense one on others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune import nested
from fxprune.inputs.batches import Batch
from fxprune.planning.trials import Trial, Trials
from fxprune.recovery.repair.chunks import chunks_of, parted
from fxprune.recovery.repair.moments import widened
from fxprune.recovery.repair.pair import Pair
from fxprune.recovery.repair.shelf import Shelf
from fxprune.recovery.repair.verb import repair
from fxprune.recovery.repair.walking import Walk
from fxprune.state import place_of
from fxprune.statistics.running import each_batch

__all__ = ["tried"]

_IMAGES = 640  # that are looked at; what a full repair needs
_SHARE = 4  # one of so many is learned from
_FEWEST = 20


def tried(plans: Mapping[str, Callable[[], fx.GraphModule]], model: nn.Module, images: Any, seed: int = 0) -> Trials | None:
    """Which of several slim models does what the dense one does, once it is repaired; None where there are too few images.

    Each is repaired from a quarter of up to 640 images, drawn at random; the others say how far its output is off, as a share
    of the dense output's variance. That measure stands for accuracy, which would need labels.

    Args:
        plans: name -> what makes the slim model, as `fxprune.prune` gives it.
        images: as `fxprune.repair` takes them; can be read several times.

    Raises:
        InputError: as `fxprune.repair`.
    """
    start = time.perf_counter()
    dense = Pair.of(next(iter(plans.values()))(), model).dense
    fitted, others = _drawn(images, dense, seed)
    if not others:
        return None
    trials: list[Trial] = []
    for name, make in plans.items():
        made = repair(make(), model, [batch.inputs for batch in fitted], seed=seed)
        report = made.meta["fxprune"]
        trials.append(Trial(name, _error(dense, made.eval(), others), report.macs_after, report.params_after))
    best = min(trials, key=lambda trial: trial.error)
    counts = (sum(batch.images for batch in fitted), sum(batch.images for batch in others))
    return Trials(trials, best.name, counts, round(time.perf_counter() - start, 4))


def _drawn(images: Any, dense: fx.GraphModule, seed: int) -> tuple[list[Batch], list[Batch]]:
    """Images to learn from, and others, drawn at random: a folder or a loader may be ordered by class. No others where there
    are too few."""
    generator, device = torch.Generator().manual_seed(seed), place_of(dense)[0]
    names = [str(n.target) for n in dense.graph.nodes if n.op == "placeholder"]
    if isinstance(images, Tensor) and images.dim():
        images = images[torch.randperm(len(images), generator=generator)[:_IMAGES].to(images.device)]
    elif not isinstance(images, Tensor):
        images = _some(images, generator)
    pieces = [piece for chunk in chunks_of(images, names, device) for piece in parted(chunk)]
    pieces = [pieces[i] for i in torch.randperm(len(pieces), generator=generator).tolist()]
    total, count, at = sum(piece.images for piece in pieces), 0, 0
    while at < len(pieces) and (at < 2 or count < total / _SHARE):
        count, at = count + pieces[at].images, at + 1
    return pieces[:at], pieces[at:] if total >= _FEWEST else []


def _some(batches: Iterable[Any], generator: torch.Generator) -> list[Any]:
    """So many of the batches that they hold the images that are wanted, each as likely as any other."""
    kept: list[Any] = []
    size = 0
    for number, batch in enumerate(each_batch(batches)):
        if number == 0:
            first = next((t for t in nested.tensors(batch) if t.dim()), None)
            size = max(5, -(-_IMAGES // max(1, 1 if first is None else len(first))))
        if len(kept) < size:
            kept.append(batch)
        elif (place := int(torch.randint(number + 1, (), generator=generator))) < size:
            kept[place] = batch
    return kept


def _error(dense: fx.GraphModule, slim: fx.GraphModule, batches: list[Batch]) -> float:
    """Of the slim model's output, as a share of the dense output's variance; infinite where it is not finite."""
    shelf = Shelf()
    walks = Walk(dense, shelf), Walk(slim, shelf)
    wrong, total, square, count = 0.0, 0.0, 0.0, 0
    for chunk, batch in enumerate(batches):
        outputs = []
        for walk in walks:
            walk.start(chunk, batch.inputs)
            outputs.append(nested.tensors(walk.output(chunk)))
        for d, s in zip(*outputs, strict=True):
            if d.is_floating_point():
                d = widened(d)
                total, square, count = total + float(d.sum()), square + float(d.square().sum()), count + d.numel()
                wrong += float((d - widened(s)).square().sum())
    spread = square - total**2 / max(count, 1)
    found = wrong / spread if spread > 0 else wrong
    return found if found == found else float("inf")
