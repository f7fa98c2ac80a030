"""From samples to a model of the time: per segment in closed form, and their sum corrected to what whole models take.

The seconds of a segment with features ``f`` (`fxprune.profiling.segments`) are

    t = u_segment * (c . f + c' . f') * exp(d . m)

with coefficients ``c, c' >= 0`` per shape class (non-negative least squares of relative errors; Lawson and Hanson, "Solving
least squares problems", 1974, chapter 23), of work in blocks of a multiple that is chosen per class. ``m`` says of the last
two axes whether their widths are no multiples of 4, 8 and 16; ``f'`` are the entries written, where outputs are no multiple of
4, the entries read, where inputs are not, and the work, where either is not: runtimes then take slower kernels, or reorder.
``d`` is what else misalignment costs, per kind of contraction (ridge regression of logarithms); ``u`` is what one segment
differs from its class by (a median, shrunk towards 1). Then the whole model takes

    T = base + sum over kinds (scale_kind * sum of t)

with one kind where the engine measures its own segments, and ``base``, ``scale`` from the whole models that were measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from fxprune.profiling.measuring import Sample
from fxprune.profiling.segments import FEATURES, READ, WORK, WRITTEN, Segments

__all__ = ["MULTIPLES", "Fitted", "fit", "misaligned"]

MULTIPLES = (1, 4, 8, 16, 32)  # blocks that are tried
_ALIGNED = (4, 8, 16)
_BETTER = 0.9  # a block must explain the times so much better than no blocks
_RIDGE = 4.0  # samples' worth of "alignment costs nothing", and of "a segment is like its class"
_ROUNDS = 3
_TURNS = 3
_MOST_DRIFT = 2.0  # that is taken for one of the machine between the whole and its parts
_EXTRA = (WRITTEN, READ, WORK)
_KINDS = ("convolution", "depthwise", "product", "other")


@dataclass(frozen=True, eq=False)
class Fitted:
    """The model's numbers, per segment.

    Attributes:
        coefficients: float array ``[segments, features]``, seconds: ``u * c``.
        extra: float array ``[segments, 3]``: ``u * c'``, of entries written, entries read and work that are misaligned.
        multiples: float array ``[segments]``: the block of each.
        penalties: float array ``[segments, 6]``: ``d``, of the first axis and of the second.
        scales: float array ``[segments]``: that of each segment's kind.
        base: seconds, below zero where timing the parts takes longer than what lies between them.
        errors: relative errors of whole models, each left out of the last step of the fit; signed.
    """

    coefficients: np.ndarray
    extra: np.ndarray
    multiples: np.ndarray
    penalties: np.ndarray
    scales: np.ndarray
    base: float
    errors: np.ndarray

    def rates(self, off: np.ndarray) -> np.ndarray:
        """Seconds for one unit of each feature where widths are misaligned like that: float array ``[segments, features]``.

        Args:
            off: what `misaligned` gives.
        """
        found = self.coefficients.copy()
        for column, (feature, where) in enumerate(zip(_EXTRA, _where(off), strict=True)):
            found[:, feature] += self.extra[:, column] * where
        return found * np.exp((off * self.penalties).sum(1))[:, None]


def misaligned(segments: Segments, kept: np.ndarray) -> np.ndarray:
    """Bool array ``[segments, 6]``: widths of the last two axes that are no multiples of 4, 8, 16."""
    widths = segments.widths(kept)[segments.sides]
    off = [(widths % multiple != 0) & (segments.sides > 0) for multiple in _ALIGNED]
    return np.stack(off, axis=2).reshape(len(segments), 2 * len(_ALIGNED))


def _where(off: np.ndarray) -> list[np.ndarray]:
    """Where each of the extra features counts; `off` as `misaligned` gives it, maybe of several designs."""
    outputs, inputs = off[..., 0], off[..., len(_ALIGNED)]
    return [outputs, inputs, outputs | inputs]


def _extended(features: np.ndarray, off: np.ndarray) -> np.ndarray:
    """``f`` and ``f'`` side by side."""
    more = [features[..., feature] * where for feature, where in zip(_EXTRA, _where(off), strict=True)]
    return np.concatenate([features, np.stack(more, axis=-1)], axis=-1)


def fit(segments: Segments, samples: Sequence[Sample], own: bool = True) -> Fitted:
    """Learn from samples, the first of them of the dense model.

    Args:
        own: the parts were measured by the engine that measured the whole; else every kind of contraction has its own scale.
    """
    kept = [np.array(sample.kept, np.float64) for sample in samples]
    drift = _drift(samples)
    whole = np.array([sample.whole for sample in samples]) / drift
    parts = [np.array(s.parts) / d for s, d in zip(samples, drift, strict=True) if s.parts is not None]
    times = _as_fast(np.stack(parts), whole) if len(parts) == len(samples) else _shared(segments, kept, whole)
    off = np.stack([misaligned(segments, k) for k in kept])  # [samples, segments, 6]
    features = {
        m: _extended(np.stack([segments.values(k, np.full(len(segments), float(m))) for k in kept]), off) for m in MULTIPLES
    }
    coefficients, multiples, penalties = _segments(segments, features, off, times)
    chosen = np.stack([features[int(m)][:, place] for place, m in enumerate(multiples)], axis=1)
    sums = (chosen * coefficients).sum(2) * np.exp((off * penalties).sum(2))  # [samples, segments]
    kinds = _kinds(segments.operations) if own is False else np.zeros(len(segments), np.int64)
    by_kind = np.stack([sums[:, kinds == kind].sum(1) for kind in range(int(kinds.max()) + 1)], axis=1)
    base, scale = _whole(by_kind, whole)
    errors = np.array([_left_out(by_kind, whole, number) for number in range(len(whole))])
    plain, extra = coefficients[:, : len(FEATURES)], coefficients[:, len(FEATURES) :]
    return Fitted(plain, extra, multiples, penalties, scale[kinds], base, errors)


def _drift(samples: Sequence[Sample]) -> np.ndarray:
    """How much slower than usual the machine was at each sample, by the dense model in turns with it."""
    dense = np.array([sample.dense for sample in samples])
    return np.asarray(dense / np.median(dense))


def _as_fast(parts: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Seconds of segments ``[samples, segments]``, of a machine as fast as it was while the whole models were timed.

    The two are timed one after the other, and a shared machine changes its speed in between: but for that, the whole is a base
    and a multiple of the sum of its parts.
    """
    sums = parts.sum(1)
    base, scale = _whole(sums[:, None], whole)
    usual = np.maximum(whole - base, 0) / scale[0]
    return np.asarray(parts * np.clip(usual / sums, 1 / _MOST_DRIFT, _MOST_DRIFT)[:, None])


def _shared(segments: Segments, kept: Sequence[np.ndarray], whole: np.ndarray) -> np.ndarray:
    """Where an engine cannot tell segments apart: the whole shared among them by their work and what they write."""
    ones = np.ones(len(segments))
    each = np.stack([segments.values(k, ones) for k in kept])
    mine = each[:, :, 1] + 8 * each[:, :, 2:].sum(2) + 1e3  # a few entries move in the time of a product
    return np.asarray(mine / mine.sum(1, keepdims=True) * whole[:, None])


def _segments(
    segments: Segments, features: dict[int, np.ndarray], off: np.ndarray, times: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coefficients, multiples and penalties of all segments from what they took."""
    count, classes, operations = len(segments), np.array(segments.classes), np.array(segments.operations)
    columns = features[1].shape[2]
    coefficients, multiples, penalties = np.zeros((count, columns)), np.ones(count), np.zeros((count, off.shape[2]))
    times = np.maximum(times, 1e-9)
    logs = np.zeros_like(times)
    for turn in range(_ROUNDS):
        factor = np.exp((off * penalties).sum(2))
        for name in dict.fromkeys(segments.classes):
            mine = np.flatnonzero(classes == name)
            by_multiple = {m: f[:, mine].reshape(-1, columns) for m, f in features.items()}
            best, found = _class(by_multiple, (times / factor)[:, mine].ravel())
            coefficients[mine], multiples[mine] = found, best
            predicted = np.maximum((features[best][:, mine] * found).sum(2), 1e-12)
            logs[:, mine] = np.log(times[:, mine] / predicted)
        if turn == _ROUNDS - 1:
            break
        for name in dict.fromkeys(segments.operations):
            mine = np.flatnonzero(operations == name)
            rows, goal = off[:, mine].reshape(-1, off.shape[2]).astype(np.float64), logs[:, mine].ravel()
            centred, mean = rows - rows.mean(0), goal - np.median(goal)
            matrix = centred.T @ centred + _RIDGE * np.eye(rows.shape[1])
            penalties[mine] = np.linalg.solve(matrix, centred.T @ mean)
    rest = logs - (off * penalties).sum(2)
    shrunk = np.median(rest, axis=0) * len(times) / (len(times) + _RIDGE)
    return coefficients * np.exp(shrunk)[:, None], multiples, penalties


def _class(features: dict[int, np.ndarray], times: np.ndarray) -> tuple[int, np.ndarray]:
    """The block and the coefficients that explain a class best."""
    plain, least = _relative(features[1], times)
    best, found = 1, plain
    least *= _BETTER
    for multiple in MULTIPLES[1:]:
        trial, error = _relative(features[multiple], times)
        if error < least:
            best, found, least = multiple, trial, error
    return best, found


def _relative(features: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, float]:
    """Coefficients of the least squares of relative errors, none below zero, and the mean error."""
    from scipy.optimize import nnls

    size = np.maximum(np.abs(features).max(0), 1e-300)
    rows = features / size / times[:, None]
    weight = np.ones(len(times))
    for _ in range(_TURNS):
        found = np.asarray(nnls(rows * weight[:, None], weight)[0])
        error = np.abs(rows @ found - 1)
        # Outliers of a busy machine count less the next time.
        weight = 1 / np.sqrt(np.maximum(error / max(2 * float(np.median(error)), 1e-9), 1))
    return found / size, float(error.mean())


def _kinds(operations: Iterable[str]) -> np.ndarray:
    """What compilers treat alike."""
    found = []
    for name in operations:
        kind = "depthwise" if name.startswith(("depthwise", "grouped")) else "convolution" if "Conv" in name else "product"
        found.append(_KINDS.index("other" if name == "start" else kind))
    _, numbers = np.unique(found, return_inverse=True)
    return np.asarray(numbers)


def _whole(sums: np.ndarray, whole: np.ndarray) -> tuple[float, np.ndarray]:
    """``whole = base + sums . scales``, by relative errors; scales are held near their common value by one sample's worth."""
    from scipy.optimize import nnls

    common = float(np.median(whole / sums.sum(1)))
    kinds = sums.shape[1]
    one = np.ones((len(whole), 1)) / whole[:, None]
    rows = np.hstack([one, -one, sums / whole[:, None]])  # timing the parts may cost as much as what lies between them
    # Few samples must not part kinds that grow alike: each prefers the common scale.
    share = np.sqrt(0.3) * (sums / whole[:, None]).mean(0) * common
    held = np.hstack([np.zeros((kinds, 2)), np.diag(share / common)])
    found = nnls(np.vstack([rows, held]), np.concatenate([np.ones(len(whole)), share]))[0]
    return float(found[0] - found[1]), np.asarray(found[2:])


def _left_out(sums: np.ndarray, whole: np.ndarray, number: int) -> float:
    rest = np.arange(len(whole)) != number
    if not rest.any():
        return 0.0
    base, scale = _whole(sums[rest], whole[rest])
    return float((base + sums[number] @ scale) / whole[number] - 1)
