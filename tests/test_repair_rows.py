"""What a repair adds up: layers as products of matrices, and least squares over their rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fxprune.recovery.repair.moments import Moments
from fxprune.recovery.repair.patches import as_matrix, as_weight, drawn, outputs_at, patches_at, positions

# -- rows: what a layer computes, as a product of matrices -----------------------------------------------------------------

LAYERS: list[tuple[str, Callable[[], nn.Module], tuple[int, ...]]] = [
    ("linear", lambda: nn.Linear(6, 4), (3, 5, 6)),
    ("conv1d", lambda: nn.Conv1d(4, 6, 3, 2, 1), (2, 4, 9)),
    ("conv2d", lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 2), (2, 1)), (2, 4, 9, 8)),
    ("conv3d", lambda: nn.Conv3d(2, 3, 2, 1, 1), (2, 2, 4, 4, 4)),
    ("grouped", lambda: nn.Conv2d(6, 9, 3, padding=1, groups=3), (2, 6, 5, 5)),
    ("depthwise", lambda: nn.Conv2d(6, 12, 3, groups=6, bias=False), (2, 6, 5, 5)),
    ("same", lambda: nn.Conv2d(2, 3, 4, padding="same", dilation=2), (2, 2, 8, 8)),
    ("valid", lambda: nn.Conv2d(2, 3, 3, padding="valid"), (2, 2, 8, 8)),
    ("circular", lambda: nn.Conv2d(2, 3, 3, padding=(1, 2), padding_mode="circular"), (2, 2, 6, 6)),
    ("one image", lambda: nn.Conv2d(2, 3, 3, padding=1), (2, 6, 6)),
    ("transposed", lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1), (2, 4, 5, 5)),
    ("transposed, grouped", lambda: nn.ConvTranspose2d(4, 6, (4, 3), (2, 1), (1, 0), groups=2, dilation=(1, 2)), (2, 4, 5, 5)),
    ("transposed 1d", lambda: nn.ConvTranspose1d(3, 2, 5, 3, bias=False), (2, 3, 7)),
]


@pytest.mark.parametrize(("make", "shape"), [case[1:] for case in LAYERS], ids=[case[0] for case in LAYERS])
def test_rows_times_the_matrix_are_what_the_layer_puts_out(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, x = make().double(), torch.randn(shape).double()
    convolution = None if isinstance(layer, nn.Linear) else layer
    y = layer(x).detach()
    weight: Any = layer.weight
    matrix = as_matrix(convolution, weight.detach())
    sizes = positions(convolution, y)
    chosen = drawn(sizes, 11, torch.Generator().manual_seed(1))
    rows = patches_at(convolution, x, sizes, chosen)
    got = torch.einsum("ngd,gdo->ngo", rows, matrix).flatten(1) + (0 if layer.bias is None else layer.bias)  # type: ignore[operator]
    assert torch.allclose(got, outputs_at(convolution, y, chosen), atol=1e-12)
    assert torch.equal(as_weight(convolution, matrix, weight), weight)
    assert len(set(chosen.tolist())) == min(11, math.prod(sizes))


def test_a_convolution_whose_padding_was_set_later() -> None:
    layer, x = nn.Conv2d(2, 3, 3), torch.randn(2, 2, 6, 6)
    layer.padding = (1, 1)
    y = layer(x).detach()
    sizes = positions(layer, y)
    rows = patches_at(layer, x, sizes, torch.arange(72))
    got = torch.einsum("ngd,gdo->ngo", rows, as_matrix(layer, layer.weight.detach())).flatten(1) + layer.bias
    assert torch.allclose(got, outputs_at(layer, y, torch.arange(72)), atol=1e-5)


# -- sums ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bias", "normed"), [(False, False), (True, False), (False, True), (True, True)])
def test_the_fit_is_that_of_the_rows_themselves(bias: bool, normed: bool) -> None:
    """Against ridge regression on all rows at once, group by group, and the errors against predictions."""
    torch.manual_seed(0)
    x, r, y = torch.randn(60, 2, 5) + 3, torch.randn(60, 2, 4) + 1, torch.randn(60, 2, 4)
    sums = Moments(bias, normed)
    for part in range(0, 60, 25):
        sums.add(x[part : part + 25], r[part : part + 25], y[part : part + 25])
    change = sums.solve(0.1)
    assert change is not None and (change.bias is not None) == bias
    x, r, y = x.double(), r.double(), y.double()
    total = none = 0.0
    for g in range(2):
        a, b = x[:, g], r[:, g]
        ca, cb = (a - a.mean(0), b - b.mean(0)) if bias or normed else (a, b)
        gram = ca.T @ ca
        expected = torch.linalg.solve(gram + 0.1 * gram.diagonal().mean() * torch.eye(5).double(), ca.T @ cb)
        assert torch.allclose(change.weight[g], expected, atol=1e-10)
        rest = b - a @ expected
        if change.bias is not None:
            assert torch.allclose(change.bias[g], rest.mean(0), atol=1e-10)
            rest = rest - change.bias[g]
        total += float(((rest - rest.mean(0)) if normed else rest).square().sum())
        none += float((b - b.mean(0) if normed else b).square().sum())
    assert sums.error(change) == pytest.approx(total, rel=1e-9) and sums.error(None) == pytest.approx(none, rel=1e-9)
    assert sums.spread == pytest.approx(float((y - y.mean(0)).square().sum()))


def test_inputs_that_are_always_zero_or_alike_leave_finite_weights() -> None:
    x = torch.randn(40, 1, 1).expand(40, 1, 6).clone()
    for rows in (x, torch.zeros_like(x)):
        sums = Moments(True, False)
        sums.add(rows, torch.randn(40, 1, 3), torch.randn(40, 1, 3))
        change = sums.solve(1e-3)
        assert change is not None and bool(torch.isfinite(change.weight).all())
    assert not Moments(True, False).finite
