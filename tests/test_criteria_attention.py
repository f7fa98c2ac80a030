"""Criterion `surgeon` where queries meet keys: what attention puts out without a channel, against its derivatives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxprune
from fxprune import criteria
from fxprune.state import named_tensors

torch.set_num_threads(1)


class Attention(nn.Module):
    """Two heads of four channels; layers of their own for queries, keys and values. ``form`` says how they meet."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.few = form, 1 if form == "gqa" else 2
        self.q, self.k, self.v, self.o = (
            nn.Linear(6, 8),
            nn.Linear(6, 4 * self.few),
            nn.Linear(6, 3 * self.few),
            nn.Linear(6, 5),
        )
        self.soft, self.drop = nn.Softmax(-1), nn.Dropout(0.3)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n, t, _ = x.shape
        q = self.q(x).view(n, t, 2, 4).transpose(1, 2)
        k = self.k(x).view(n, t, self.few, 4).transpose(1, 2)
        return q, k, self.v(x).view(n, t, self.few, 3).transpose(1, 2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.parts(x)
        if self.form == "written out":
            logits = (q / 2) @ k.transpose(-2, -1) * 0.7
            out = self.drop(self.soft(logits.masked_fill(mask.logical_not(), -1e9) + 0.1)) @ v
        elif self.form == "plain":
            out = torch.matmul(torch.softmax(torch.matmul(q, k.transpose(2, 3)), dim=-1), v)
        elif self.form == "causal":
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.9)
        else:
            out = F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=self.form == "gqa")
        return self.o(out.transpose(1, 2).reshape(len(x), -1, 6))

    def attended(self, x: Tensor, mask: Tensor, factor: Tensor) -> Tensor:
        """What attention puts out when each channel's product counts so often; independent of how forward writes it."""
        q, k, v = (t.double() for t in self.parts(x))
        k, v = (t.expand(-1, 2, -1, -1) for t in (k, v))
        scale = {"written out": 0.35, "plain": 1.0, "causal": 0.9}.get(self.form, 0.5)
        logits = torch.einsum("bhic,bhjc,c->bhij", q, k, factor) * scale
        seen = torch.ones(q.shape[2], q.shape[2]).tril().bool() if self.form == "causal" else mask
        allowed = logits if self.form == "plain" else logits.masked_fill(~seen, -torch.inf)
        return allowed.softmax(-1) @ v


def made(form: str) -> tuple[Attention, Tensor, Tensor]:
    torch.manual_seed(0)
    mask = torch.ones(7, 7).tril(3).bool()
    return Attention(form).eval(), torch.randn(30, 7, 6), mask


def scored(model: nn.Module, x: Tensor, mask: Tensor, **options: Any) -> Tensor:
    """Of the channels that queries and keys share."""
    found: Any = criteria.resolve(
        "surgeon", normalization="none", **{"ridge": 1e-12, "positions": 99, "per_mac": False} | options
    )
    analysis = fxprune.analyze(model, (x[:2], mask))
    criteria.prepare(found, model, analysis, [(x[:20], mask), (x[20:], mask)])
    (group,) = [g for g in analysis.free if g.id == "q.weight"]
    scores: Tensor = found(group, named_tensors(model))
    return scores


def moved(model: Attention, x: Tensor, mask: Tensor) -> tuple[Tensor, float]:
    """How each channel's product moves the output, ``[numbers, channels]``, and the output's power."""
    one, step = torch.ones(4, dtype=torch.float64), 1e-5
    with torch.no_grad():
        ends = [[model.attended(x, mask, one + side * e) for side in (step, -step)] for e in torch.eye(4).double()]
        columns = [(high - low) / (2 * step) for high, low in ends]
        out = model.attended(x, mask, one)
    return torch.stack([c.flatten() for c in columns], 1), float((out - out.mean((0, 2), keepdim=True)).square().sum())


@pytest.mark.parametrize("form", ["fused", "causal", "gqa", "written out", "plain"])
def test_the_loss_is_what_the_derivative_of_attention_says(form: str) -> None:
    model, x, mask = made(form)
    rows, power = moved(model, x, mask)
    expected = []
    for c in range(4):
        others = rows[:, [i for i in range(4) if i != c]]
        rest = rows[:, c] - others @ torch.linalg.lstsq(others, rows[:, c : c + 1]).solution[:, 0]
        expected.append(float(rest.square().sum()) / power)
    assert scored(model, x, mask, greedy=False).tolist() == pytest.approx(expected, rel=1e-4)


def test_a_channel_that_all_keys_share_is_worth_nothing() -> None:
    """A softmax does not see what is added to all of its inputs; the weights of the layers would."""
    model, x, mask = made("fused")
    with torch.no_grad():
        model.k.weight[[1, 5]] = 0  # of both heads: what is left of these keys is the bias
        model.k.bias[[1, 5]] = 10
    found = scored(model, x, mask)
    assert int(found.argmin()) == 1
    assert float(found[1]) < 1e-9 * float(found.max())


def test_queries_and_keys_lose_what_moves_attention_least() -> None:
    """At the same cut, by the whole way through: attention is nearer to what it was than by the norms of the weights."""
    model, x, mask = made("plain")
    with torch.no_grad():
        x[..., 0] = 1
        model.k.weight[[0, 4]] = 30 * torch.eye(6)[0]  # large, and all keys get the same of it
    errors = []
    for criterion in ("surgeon", "l2"):
        data = [(x, mask)] if criterion == "surgeon" else None
        ratio = {"q": 0.5}
        slim = fxprune.prune(model, ratio, (x[:2], mask), criterion=criterion, data=data)
        errors.append(float((slim(x, mask) - model(x, mask)).detach().square().sum()))
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize(
    "change",
    ["logits * torch.rand(7)", "logits.relu()", "logits + logits.mean()"],
    ids=["scaled by a tensor", "relu", "read twice"],
)
def test_what_is_no_attention_keeps_its_norms(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(Attention):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            q, k, v = self.parts(x)
            logits = q @ k.transpose(-2, -1)
            found: Tensor = eval(change, {"logits": logits, "torch": torch})
            return self.o((found.softmax(-1) @ v).transpose(1, 2).reshape(len(x), -1, 6))

    torch.manual_seed(0)
    model, x, mask = Other("").eval(), torch.randn(30, 7, 6), torch.ones(7, 7).bool()
    found = scored(model, x, mask)
    monkeypatch.setattr("fxprune.criteria.surgeon.Surgeon.attends", False)
    assert found.tolist() == scored(model, x, mask).tolist()
