"""Permutation invariance of a watched model: whatever can lose no channel stays as it was, operator by operator."""

from __future__ import annotations

from typing import Any

import numpy as np

from fxprune import nested
from fxprune.errors import NotEquivalent
from fxprune.labels.solver import solve
from fxprune.proofs.errors import relative_error
from fxprune.proofs.permutation import permute_channels
from fxprune.shrinking.watched.analysis import Watched, labels_on_path, twin
from fxprune.shrinking.watched.calls import Session, run
from fxprune.shrinking.watched.labels import Diverged, Heard, Seen
from fxprune.shrinking.watched.lockstep import Hearing
from fxprune.shrinking.watched.operators import Decisions, Operators, is_by_chance, takes_number

__all__ = ["permuted_error"]


class _Following(Operators):
    """Runs a permuted model on the path of the original.

    Attributes:
        error: the largest relative change of a result none of whose entries may go.
        compared: how many results were.
    """

    def __init__(self, heard: list[Heard], seen: list[Seen], movable: np.ndarray) -> None:
        super().__init__()
        self.heard, self.seen, self.movable = heard, seen, movable
        self.number, self.compared, self.error = 0, 0, 0.0

    def operator(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        number, self.number = self.number, self.number + 1
        if number >= len(self.heard) or self.heard[number].func is not func:
            raise Diverged(number, f"it runs {func}, where the original does not")
        heard = self.heard[number]
        if takes_number(func):
            return heard.out
        out = func(*args, **kwargs)
        drawn = is_by_chance(func, args, kwargs)
        for mine, its, axes in zip(nested.tensors(out), nested.tensors(heard.out), self.seen[number].axes, strict=False):
            if mine.shape != its.shape:
                raise Diverged(number, f"it returns {list(mine.shape)}, where the original returns {list(its.shape)}")
            if any(a.labels is not None and self.movable[a.labels].any() for a in axes):
                continue
            if not drawn:
                self.compared += 1
                self.error = max(self.error, relative_error(mine, its))
            if 0 not in mine.stride():
                mine.copy_(its)
        return out


def permuted_error(watched: Watched, session: Session, seed: int = 0) -> float:
    """The largest relative change of what any operator returns, where none of it may go, when the channels of every free
    group change places in the model's own tensors.

    Raises:
        NotEquivalent: the model runs other operators then.
    """
    original = twin(watched.model, watched.example, own=session.own)
    hearing = Hearing(original, Decisions(session.flipped))
    with hearing:
        run(original, session)
    labels, diverged = labels_on_path(twin(watched.model, watched.example, own=session.own), session, hearing.heard)
    assert diverged is None, diverged
    solution = solve(labels.store, watched.analysis.attention)
    permuted = twin(watched.model, watched.example, own=session.own)
    permute_channels(permuted, watched.analysis, np.random.default_rng(seed))
    following = _Following(hearing.heard, labels.seen, ~solution.fixed[solution.root])
    try:
        with following:
            run(permuted, session)
    except Exception as error:
        raise NotEquivalent(
            f"{watched.analysis.model_name} with the channels of its groups in another order does something else at operator "
            f"{following.number}: {error}; keep the layers there with ignore=[...], and please report the model"
        ) from error
    return following.error
