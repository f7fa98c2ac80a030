"""The slim model as it runs where nobody watches: with the kernels that PyTorch takes then, it returns what was compared."""

from __future__ import annotations

import torch
from torch import nn

from fxprune.errors import NotEquivalent
from fxprune.inputs.examples import own_copy
from fxprune.shrinking.watched.analysis import Watched
from fxprune.shrinking.watched.calls import run
from fxprune.shrinking.watched.lockstep import same_results
from fxprune.tracing.untouched import seed_all, twin_of

__all__ = ["check_unwatched"]


def check_unwatched(watched: Watched, slim: nn.Module) -> None:
    """
    Raises:
        NotEquivalent: fused kernels, which run where no mode sees the operators, compute something else with its sizes.
    """
    for session in watched.sessions:
        if not session.own or session.flipped is not None:
            continue
        wanted = run(twin_of(slim, watched.example.dtype, clone=True), session)
        plain, found = twin_of(slim, watched.example.dtype, clone=True), []
        with torch.no_grad():
            for (args, named), training in own_copy(session.inputs):
                plain.train(training)
                seed_all(session.seed)
                found.append(plain(*args, **named))
        wrong = next((text for a, b in zip(wanted, found, strict=True) if (text := same_results(a, b))), "")
        if wrong:
            raise NotEquivalent(
                f"{watched.analysis.model_name} in its own class does not compute what was compared, where fused kernels run "
                f"(with {session.name}, {wrong}): keep its attention with ignore=[...], and please report the model"
            )
