"""`repair`: what is left of a pruned model, fitted to what the whole one does, without labels and without gradients."""

from __future__ import annotations

import copy
import hashlib
import os
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, get_args

import torch
from torch import Tensor, fx, nn

from fxprune.errors import InputError, shown
from fxprune.inputs.batches import inputs_of
from fxprune.options import check_flag, check_seed, real
from fxprune.planning.repaired import Repaired
from fxprune.planning.report import Report
from fxprune.progress import track
from fxprune.recovery.repair.checkpoint import Checkpoint
from fxprune.recovery.repair.chunks import chunks_of
from fxprune.recovery.repair.norms import NormMode
from fxprune.recovery.repair.pair import Pair
from fxprune.recovery.repair.repairing import Repairing, Settings

__all__ = ["checked_repair", "repair", "repaired"]

_AMP = ("bfloat16", "float16")


def repair(
    slim: nn.Module,
    model: nn.Module,
    images: Tensor | Iterable[Any],
    *,
    ridge: float = 1e-3,
    norms: NormMode = "match",
    positions: int = 48,
    seed: int = 0,
    memory: float = 2**31,
    amp: str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 8,
    progress: bool = False,
) -> fx.GraphModule:
    """Return a copy of a pruned model whose layers make up for the channels that went; neither model changes.

    Layer after layer, in the order of the graph: the kept weights of each convolution and linear layer whose inputs lost
    channels are fitted so that, on what the repaired layers before it give, it puts out what the dense layer does. With
    centred inputs ``X`` (rows of patches at random positions) and dense outputs ``Y``, ``R = Y - X W^T``::

        W <- W + ((X^T X + ridge * mean(diag(X^T X)) I)^-1 X^T R)^T        b <- mean(Y) - W mean(X)

    Where the output is added to a residual stream, ``Y`` is what makes the sum the dense one: the dense output and the stream's
    own error, so that errors do not pile up from block to block. Where a ReLU (or ReLU6, Hardtanh) follows, with at most a
    batch norm and the stream in between, what is cut off in both models need not be alike: some more steps fit what is left
    (Zhang et al., TPAMI 2016, section 3.2), and the norm between moves along instead of being matched.

    Then each batch norm's running statistics are set so that what leaves it has the dense channel's mean and variance. Least
    squares after pruning are those of Luo et al., "ThiNet", ICCV 2017, section 3.2; here over all kept channels, by group of
    a grouped convolution, and with the ridge towards the kept weights.

    A fifth of the images is held back. A layer or norm that would do worse on these stays as it is, and so does the whole
    model if its output would; the report, ``slim.meta["fxprune"].repair``, says which and how well the others do.

    >>> import fxprune
    >>> found = repair(fxprune.prune(net, 0.5, x), net, torch.randn(100, 8)).meta["fxprune"].repair
    >>> found.images, found.after < found.before
    ((80, 20), True)

    Args:
        slim: what `prune` or `apply` returned, on the device of `model`.
        model: what it was made from.
        images: unlabelled inputs as they are in use: a tensor ``[n, ...]``, or batches as `prune` takes them as `data`
            (labels are not looked at). 640 are plenty for images. They are read once.
        ridge: how much a change of the weights costs, as a share of the mean square of the inputs. More for few images.
        norms: ``"match"``, ``"recalibrate"`` (statistics of what the slim norm gets) or ``"keep"``.
        positions: of each image's map, or tokens of each text, so many are drawn at random.
        seed: of these draws; the same seed gives the same weights on the same device.
        memory: bytes that values between layers may take; what is more goes to temporary files. All else that is remembered
            of the images are sums, whose size does not grow with their number.
        amp: ``"bfloat16"`` or ``"float16"``: both models run in autocast; sums and weights keep their precision.
        checkpoint: file that is written, whole, after every `checkpoint_every` layers and norms. Where it is there already (the
            process was killed), the repair goes on from it, to the same weights: bit for bit on the CPU. It stays there.
        progress: show a progress bar.

    Returns:
        A repaired copy of `slim`, with its report, to which `repair` is added.

    Raises:
        InputError: slim was not made from a model like this one, there are fewer than two images, they do not fit or are not
            finite, submodules were pruned, or the checkpoint is damaged or of another repair.
        PruneError: the checkpoint cannot be written.
    """
    start = time.perf_counter()
    settings = _checked(ridge, norms, positions, seed, (memory, amp))
    progress = check_flag(progress, "progress")
    file = Checkpoint(checkpoint, checkpoint_every, slim)
    pair = Pair.of(slim, model)
    work = Repairing(pair, settings)
    inputs = inputs_of(pair.dense.graph)
    work.read(file.watched(chunks_of(images, inputs, pair.device)))
    options = {"ridge": settings.ridge, "norms": norms, "positions": settings.positions, "seed": settings.seed, "amp": amp}
    key = {**options, "plan": hashlib.sha256(pair.plan.to_json().encode()).hexdigest()[:16]}
    sites = file.begin(pair.dense, key, pair.slim, work.generator)
    work.go_on(sites)
    rest = work.sites[len(sites) :]
    for number, site in enumerate(track(rest, "repairing", shown=progress or None)):
        sites.append(work(site))
        file.keep(sites, pair.slim, work.generator, last=number == len(rest) - 1)
    before, after = work.output_errors()
    made, kept = pair.result(), ""
    if not after <= before:
        made = copy.deepcopy(slim)  # type: ignore[assignment]  # which `Pair.of` has seen to be a GraphModule
        kept = f"the output's error on images that were held back would go from {before:.3g} to {after:.3g} of its variance"
    found = Repaired(sites, work.images, before, before if kept else after, kept)
    found.left = work.left
    found.options = options
    found.seconds = round(time.perf_counter() - start, 4)
    report: Report = made.meta["fxprune"]
    made.meta["fxprune"] = replace(report, repair=found, seconds={**report.seconds, "repair": found.seconds})
    return made


def checked_repair(images: Any, submodules: Any) -> Any:
    """The images that `prune` is to repair from, before it does anything.

    Raises:
        InputError: these are no images, or submodules are pruned.
    """
    if images is None:
        return None
    if (
        isinstance(images, (str, bytes))
        or not isinstance(images, Iterable)
        or (isinstance(images, Tensor) and not images.dim())
    ):
        raise InputError(f"repair must be images, a tensor of them or batches, not {shown(images)}")
    if submodules:
        raise InputError("a repair needs the model as one graph: leave repair or submodules out")
    return images


def repaired(slim: Any, model: nn.Module, images: Any) -> Any:
    """What `prune` does with its argument `repair`: nothing where it is None."""
    return slim if images is None else repair(slim, model, images)


def _checked(ridge: Any, norms: Any, positions: Any, seed: Any, running: tuple[Any, Any]) -> Settings:
    """
    Raises:
        InputError: a value is out of range or of the wrong kind.
    """
    memory, amp = running
    share, space = real(ridge), real(memory)
    if share is None or not 0 < share < float("inf"):
        raise InputError(f"ridge must be a positive number, not {shown(ridge)}")
    if norms not in get_args(NormMode):
        raise InputError(f"norms must be 'match', 'recalibrate' or 'keep', not {shown(norms)}")
    if isinstance(positions, bool) or not isinstance(positions, int) or positions < 1:
        raise InputError(f"positions must be a whole number of at least 1, not {shown(positions)}")
    if space is None or not space >= 0:
        raise InputError(f"memory must be a number of bytes, not {shown(memory)}")
    if amp not in (None, *_AMP):
        raise InputError(f"amp must be 'bfloat16', 'float16' or None, not {shown(amp)}")
    return Settings(positions, share, norms, check_seed(seed), space, amp=None if amp is None else getattr(torch, amp))
