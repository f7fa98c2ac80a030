"""Are the filters of a layer Gaussian? Tests of the convolution weight distribution assumption (CWDA).

Huang et al., "Rethinking the Pruning Criteria for Convolutional Neural Network", NeurIPS 2021 (arXiv 2004.11627): the filters
of a trained layer, flattened to ``n = inputs * k^2`` numbers, are draws of ``N(0, D + e B)``, with D a diagonal of nearly
equal entries, B a block for each input channel (the k^2 weights of one kernel hang together) and e small. Which tests and
bounds they used is not reproduced here: those below are choices of this package.

With a million weights every p-value is tiny. So each property counts as held where no significant deviation is found, or
where the deviation is small: the effect sizes stand beside the p-values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import stats
from torch import Tensor, nn

from fxprune.analysis.analysis import Analysis

__all__ = ["Blocks", "EqualVariance", "Gaussianity", "WeightTests", "ZeroMean", "output_axes", "test_filters", "weight_tests"]

_LEVEL = 0.05  # of significance
_DISTANCE = 0.05  # Kolmogorov-Smirnov distance that is called small
_MEAN = 0.05  # Cohen's d that is called small
_SPREAD = 0.10  # true variation of the coordinates' standard deviations that is called small
_SAMPLE = 5_000  # weights in D'Agostino's test
_MOST = 200_000  # weights in the distance


@dataclass(frozen=True)
class Gaussianity:
    """Of all weights of a layer, standardised by their own mean and deviation.

    Attributes:
        distance: Kolmogorov-Smirnov distance to the normal distribution.
        bound: 0.05, or what Lilliefors' test allows at 5 % where few weights allow more (``0.886 / sqrt(weights)``).
        skewness, kurtosis: 0 and 0 (excess) for a Gaussian.
        p: of D'Agostino and Pearson's test, on at most 5,000 weights drawn at random.
    """

    distance: float
    bound: float
    skewness: float
    kurtosis: float
    p: float

    @property
    def holds(self) -> bool:
        return self.distance <= self.bound or self.p >= _LEVEL


@dataclass(frozen=True)
class ZeroMean:
    """Of all weights of a layer.

    Attributes:
        effect: Cohen's d, ``mean / standard deviation``.
        p: of Student's t-test.
    """

    effect: float
    p: float

    @property
    def holds(self) -> bool:
        return abs(self.effect) <= _MEAN or self.p >= _LEVEL


@dataclass(frozen=True)
class EqualVariance:
    """Of the n coordinates of a filter, each seen in N filters.

    Attributes:
        spread: coefficient of variation of the coordinates' standard deviations.
        expected_spread: the same for equal variances, from sampling alone: ``1 / sqrt(2 (N - 1))``.
        ratio: largest over smallest variance.
        expected_ratio: the same for equal variances, from sampling alone.
        p: of Levene's test about the medians (Brown & Forsythe).
    """

    spread: float
    expected_spread: float
    ratio: float
    expected_ratio: float
    p: float

    @property
    def excess(self) -> float:
        """Variation of the standard deviations that sampling does not explain."""
        return math.sqrt(max(0.0, self.spread**2 - self.expected_spread**2))

    @property
    def holds(self) -> bool:
        return self.excess <= _SPREAD or self.p >= _LEVEL


@dataclass(frozen=True)
class Blocks:
    """Correlations between different coordinates over the N filters: in the same kernel, and in kernels of different inputs.

    Attributes:
        inside, outside: root mean square correlation of pairs of coordinates of one input channel, and of different ones.
        chance: the same for independent coordinates: ``1 / sqrt(N - 1)``.
        energy: share of the off-diagonal energy (sum of squared correlations) that lies inside.
        pairs: share of the pairs that lie inside.
        p: one-sided, of ``inside <= outside`` for independent Gaussian coordinates (normal approximation).
    """

    inside: float
    outside: float
    chance: float
    energy: float
    pairs: float
    p: float

    @property
    def found(self) -> bool:
        return self.p < _LEVEL


@dataclass(frozen=True)
class WeightTests:
    """What the weights of one convolution look like.

    Attributes:
        layer: name of the weight.
        filters, inputs, kernel: N filters of ``inputs x kernel`` weights.
        blocks: None where a kernel has one entry, or a filter one input.
    """

    layer: str
    filters: int
    inputs: int
    kernel: int
    gaussian: Gaussianity
    mean: ZeroMean
    variance: EqualVariance
    blocks: Blocks | None


def weight_tests(model: nn.Module, analysis: Analysis, seed: int = 0) -> tuple[WeightTests, ...]:
    """Test every convolution of `model` that its graph reads, in the order of the graph.

    Convolutions of fewer than 8 filters, of fewer than 20 weights or of equal weights are left out: they say nothing.
    """
    tensors, found = dict(model.named_parameters()), []
    for name, axis in output_axes(analysis).items():
        tensor = tensors[name]
        if tensor.dim() < 3:
            continue
        filters = _filters(tensor, axis)
        if filters.shape[0] >= 8 and filters.size >= 20 and np.ptp(filters) > 0:
            found.append(test_filters(filters, name, seed))
    return tuple(found)


def output_axes(analysis: Analysis) -> dict[str, int]:
    """Weights of convolutions and linear layers that the graph reads, in its order -> the axis of their output channels."""
    axes: dict[str, int] = {}
    for group in analysis.groups:
        for member in group.members:
            tensor = analysis.traced.tensors[member.name]
            if member.role == "producer" and isinstance(tensor, nn.Parameter) and tensor.dim() > 1:
                axes.setdefault(member.name, member.axis)
    order = analysis.traced.used
    return {name: axes[name] for name in sorted(axes, key=order.__getitem__)}


def _filters(tensor: Tensor, axis: int) -> np.ndarray:
    moved = tensor.detach().double().cpu().movedim(axis, 0)
    return np.asarray(moved.reshape(moved.shape[0], moved.shape[1], -1).numpy())


def test_filters(filters: np.ndarray, layer: str = "", seed: int = 0) -> WeightTests:
    """Test filters ``[N, inputs, k^2]``, N at least 8, not all equal.

    In a grouped convolution an input is a place in its group.
    """
    count, inputs, kernel = filters.shape
    rows = filters.reshape(count, -1)
    return WeightTests(
        layer,
        count,
        inputs,
        kernel,
        _gaussianity(rows.ravel(), np.random.default_rng(seed)),
        _zero_mean(rows.ravel()),
        _equal_variance(rows),
        _blocks(filters) if kernel > 1 and inputs > 1 else None,
    )


test_filters.__test__ = False  # type: ignore[attr-defined]  # not for pytest


def _gaussianity(values: np.ndarray, random: np.random.Generator) -> Gaussianity:
    standardised = (values - values.mean()) / values.std()
    picked = standardised if len(values) <= _MOST else random.choice(standardised, _MOST, replace=False)
    ordered = np.sort(picked)
    expected = stats.norm.cdf(ordered)
    steps = np.arange(len(ordered) + 1) / len(ordered)
    distance = max(np.max(steps[1:] - expected), np.max(expected - steps[:-1]))
    sample = picked if len(picked) <= _SAMPLE else random.choice(picked, _SAMPLE, replace=False)
    return Gaussianity(
        float(distance),
        max(_DISTANCE, 0.886 / math.sqrt(len(picked))),
        float(stats.skew(standardised)),
        float(stats.kurtosis(standardised)),
        float(stats.normaltest(sample).pvalue),
    )


def _zero_mean(values: np.ndarray) -> ZeroMean:
    return ZeroMean(float(values.mean() / values.std(ddof=1)), float(stats.ttest_1samp(values, 0.0).pvalue))


def _equal_variance(rows: np.ndarray) -> EqualVariance:
    count, coordinates = rows.shape
    deviations = rows.std(0, ddof=1)
    if coordinates == 1:
        return EqualVariance(0.0, 1 / math.sqrt(2 * (count - 1)), 1.0, 1.0, 1.0)
    low, high = stats.chi2.ppf(_extremes(coordinates), count - 1)
    least = deviations.min()
    return EqualVariance(
        float(deviations.std() / deviations.mean()),
        1 / math.sqrt(2 * (count - 1)),
        float((deviations.max() / least) ** 2) if least > 0 else math.inf,
        float(high / low),
        _levene(rows),
    )


def _extremes(count: int) -> Iterable[float]:
    """Where the least and the largest of `count` draws lie on average, as quantiles (Blom 1958)."""
    return [0.625 / (count + 0.25), (count - 0.375) / (count + 0.25)]


def _levene(rows: np.ndarray) -> float:
    """p of Levene's test over columns about their medians; `scipy.stats.levene` takes the columns one by one."""
    count, columns = rows.shape
    apart = np.abs(rows - np.median(rows, axis=0))
    means = apart.mean(0)
    between = count * np.square(means - means.mean()).sum() / (columns - 1)
    within = np.square(apart - means).sum() / (columns * (count - 1))
    if within == 0:
        return 1.0 if between == 0 else 0.0
    return float(stats.f.sf(between / within, columns - 1, columns * (count - 1)))


def _blocks(filters: np.ndarray) -> Blocks | None:
    count = len(filters)
    centred = filters - filters.mean(0)
    length = np.sqrt(np.square(centred).sum(0))
    units = centred / np.where(length > 0, length, 1)
    live = (length > 0).sum(1)  # coordinates of each input that vary at all
    flat = units.reshape(count, -1)
    # The squared correlations of all pairs add up to the squared norm of the smaller of the two Gram matrices.
    gram = flat @ flat.T if count < flat.shape[1] else flat.T @ flat
    own = np.einsum("nij,nik->ijk", units, units)
    inside = float(np.square(own).sum() - live.sum())
    outside = float(np.square(gram).sum() - np.square(own).sum())
    pairs_in = float((live * (live - 1)).sum())
    pairs_out = float(live.sum() * (live.sum() - 1)) - pairs_in
    if not pairs_in or not pairs_out:
        return None
    mean_in, mean_out = max(0.0, inside) / pairs_in, max(0.0, outside) / pairs_out
    # r^2 of independent Gaussians is Beta(1/2, (N - 2) / 2); each pair was counted twice.
    variance = 2 * (count - 2) / ((count - 1) ** 2 * (count + 1))
    z = (mean_in - mean_out) / math.sqrt(variance * (2 / pairs_in + 2 / pairs_out))
    return Blocks(
        math.sqrt(mean_in),
        math.sqrt(mean_out),
        1 / math.sqrt(count - 1),
        inside / (inside + outside),
        pairs_in / (pairs_in + pairs_out),
        float(stats.norm.sf(z)),
    )
