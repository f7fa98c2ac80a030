"""Attention in models that no graph can hold: heads and their width go, and scales stay what they were."""

from __future__ import annotations

import copy
import functools
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxprune

torch.set_num_threads(1)


class Own(nn.Module):
    """Heads by attributes; the kernel divides by the root of the width that it sees."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dim, self.dropout = 4, 4, dropout
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (f(x).view(n, t, self.heads, self.dim).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        return self.out(y.transpose(1, 2).reshape(n, t, -1))  # type: ignore[no-any-return]


class Multi(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.att = nn.MultiheadAttention(16, 4, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.att(x, x[..., : self.att.kdim], x[..., : self.att.vdim])[0]  # type: ignore[no-any-return]


class Net(nn.Module):
    """What attention makes of a row decides how it goes on."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.embed, self.one, self.other = nn.Linear(6, 16), nn.Linear(16, 3), nn.Linear(16, 3)
        layer = functools.partial(nn.TransformerEncoderLayer, 16, 4, 24, batch_first=True)
        made = {
            "own": Own,
            "with dropout": lambda: Own(0.5),
            "packed": Multi,
            "apart": lambda: Multi(kdim=8, vdim=8, dropout=0.1),
            "layer": layer,
            "encoder": lambda: nn.TransformerEncoder(layer(), 2),
        }
        self.body = made[kind]()

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x)
        y = (y + self.body(y)).mean(1)
        return self.one(y) if y.amax() > 0.7 else self.other(y).tanh()  # type: ignore[no-any-return]


X = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))


@functools.cache
def pruned(kind: str, attention: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = Net(kind).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "in_proj" in name or name in ("body.q.weight", "body.k.weight", "body.att.q_proj_weight"):
                parameter *= 4  # far from uniform attention, so that scales matter
    return model, fxprune.prune(model, 0.5, X, form="module", scope="layer", attention=attention)


def masked(model: nn.Module, kept: Any) -> nn.Module:
    """By hand: rows and columns that went are zero, biases too; of the embedding as well, which nothing else reads."""
    made = copy.deepcopy(model)
    tensors = dict(made.named_parameters())
    with torch.no_grad():
        for name, axes in kept.items():
            for axis, ids in axes.items():
                gone = torch.tensor([i for i in range(tensors[name].shape[axis]) if i not in ids])
                tensors[name].index_fill_(axis, gone, 0)
    return made


SLOW = [
    ("layer", "head_dim"),
    ("layer", "heads"),
    ("encoder", "head_dim"),
    ("apart", "head_dim"),
    ("apart", "heads"),
    ("packed", "heads"),
    ("own", "heads"),
]


@pytest.mark.parametrize(
    ("kind", "attention"), [("packed", "head_dim"), *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]
)
def test_heads_and_their_width_go(kind: str, attention: str) -> None:
    model, slim = pruned(kind, attention)
    report = slim.meta["fxprune"]
    set_ = {name for found in report.own_class.settings.values() for name in found}
    assert set_ == {"head_dim" if attention == "head_dim" else "heads" if kind == "own" else "num_heads"}
    assert not report.frozen_by_rewrite and report.checks.passed and slim.embed.out_features == 8
    if kind not in ("layer", "encoder"):  # whose norms run over what went
        for seed in range(3):
            x = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(seed))
            torch.testing.assert_close(slim(x), masked(model, report.plan.kept)(x), atol=1e-5, rtol=1e-4)
    for module in slim.modules():
        if isinstance(module, nn.MultiheadAttention):
            assert (module.embed_dim, module.kdim) == (8, 4 if kind == "apart" else 8)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "attention"), [("packed", "head_dim"), *SLOW[:4]])
def test_attention_in_plain_operations_goes_on_as_such(kind: str, attention: str) -> None:
    """Copied, pickled, loaded, trained, and where PyTorch would run a fused kernel."""
    model, slim = pruned(kind, attention)
    with torch.no_grad():
        fused = slim(X)
    torch.testing.assert_close(slim(X), fused)
    torch.testing.assert_close(pickle.loads(pickle.dumps(slim))(X), fused)
    again = fxprune.apply(model, fxprune.Plan.from_json(slim.meta["fxprune"].plan.to_json()), form="module")
    file = io.BytesIO()
    torch.save(slim.state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(again(X), fused)
    other = copy.deepcopy(slim).train()
    other(X).sum().backward()
    assert all(p.grad is not None for n, p in other.named_parameters() if n.startswith("body") and n.endswith("weight"))
    assert fxprune.verify(model, slim).passed


@pytest.mark.parametrize("kind", ["own", pytest.param("with dropout", marks=pytest.mark.slow)])
def test_a_scale_that_would_change_keeps_the_width_of_heads(kind: str) -> None:
    """The kernel counts among those that draw random numbers, which it does with dropout alone."""
    model, slim = pruned(kind, "head_dim")
    report = slim.meta["fxprune"]
    assert slim.body.q.out_features == 16 and "scaled_dot_product" in str(report.frozen_by_rewrite)
    torch.testing.assert_close(slim(X), masked(model, report.plan.kept)(X), atol=1e-5, rtol=1e-4)


class Noisy(nn.Module):
    """Drops more of narrower maps, in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.last = nn.Linear(6, 16), nn.Linear(16, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x).relu()
        y = F.dropout(y, 2 / y.shape[-1], self.training)
        return self.last(self.two(y).relu()) if y.amax() > 0.1 else self.last(self.two(y))  # type: ignore[no-any-return]


def test_random_numbers_are_drawn_by_the_same_odds() -> None:
    slim = fxprune.prune(Noisy().eval(), 0.5, torch.randn(8, 6), form="module", scope="layer")
    assert slim.one.out_features == 16 and slim.two.out_features == 6
    assert "dropout draws by other numbers" in str(slim.meta["fxprune"].frozen_by_rewrite)


@pytest.mark.slow
def test_a_fused_kernel_that_computes_something_else_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is heard where operators are watched."""
    monkeypatch.setattr("fxprune.shrinking.watched.attention._without_fused_kernels", lambda part: None)
    pruned.cache_clear()
    with pytest.raises(fxprune.NotEquivalent, match="where fused kernels run"):
        pruned("layer", "head_dim")


@pytest.mark.slow
def test_attention_that_computes_something_else_in_plain_operations_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    import fxprune.shrinking.watched.attention as attention

    def doubled(module: Any, *args: Any, **kwargs: Any) -> Any:
        out, weights = original(module, *args, **kwargs)
        return out * 2, weights

    original = attention.multihead_attention
    monkeypatch.setattr(attention, "multihead_attention", doubled)
    monkeypatch.setattr(attention, "_is_attention", lambda part: isinstance(part, nn.MultiheadAttention))
    with pytest.raises(fxprune.NothingToPrune, match=r"in body\.att"):
        fxprune.prune(Net("packed").eval(), 0.5, X, form="module")
