"""Attention: written by hand, by `scaled_dot_product_attention`, by `nn.MultiheadAttention`, in windows."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.base import image, network, tokens


class Attended(nn.Module):
    """Tokens in, a residual attention of 3 heads of 4, five features out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(12, 12)
        self.proj = nn.Linear(12, 12)
        self.head = nn.Linear(12, 5)

    def attention(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.proj(self.attention(x)))


QKV = ("q.weight:0", "q.bias:0", "k.weight:0", "k.bias:0", "v.weight:0", "v.bias:0")


@network(
    "bmm attention",
    free=["stem.weight:0", "q.weight:0", "k.weight:0", "v.weight:0"],
    coupled=[
        ("q.weight:0", "k.weight:0"),
        ("v.weight:0", "proj.weight:1"),
        ("stem.weight:0", "q.weight:1"),
        ("stem.weight:0", "proj.weight:0"),
        ("q.weight:0[0:4]", "q.weight:0[4:8]"),
    ],
    apart=[("q.weight:0", "v.weight:0"), ("q.weight:0", "stem.weight:0")],
    masked=QKV,
    inputs=lambda batch: (tokens(batch),),
)
class BmmAttention(Attended):
    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(12, 12)
        self.k = nn.Linear(12, 12)
        self.v = nn.Linear(12, 12)

    def heads(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], -1, 3, 4).transpose(1, 2).reshape(x.shape[0] * 3, -1, 4)

    def attention(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(self.q(x)), self.heads(self.k(x)), self.heads(self.v(x))
        weights = torch.bmm(q, k.transpose(1, 2)).mul(4**-0.5).softmax(-1)
        y = torch.bmm(weights, v).view(x.shape[0], 3, -1, 4)
        return y.transpose(1, 2).reshape(x.shape[0], -1, 12)


@network(
    "fused qkv",
    free=["stem.weight:0", "qkv.weight:0"],
    coupled=[
        ("qkv.weight:0[:12]", "qkv.weight:0[12:24]"),
        ("qkv.weight:0[:12]", "qkv.weight:0[24:]"),
        ("qkv.weight:0[24:]", "proj.weight:1"),
        ("qkv.weight:0", "qkv.bias:0"),
        ("qkv.weight:0[0:4]", "qkv.weight:0[4:8]"),
        ("stem.weight:0", "qkv.weight:1"),
    ],
    apart=[("qkv.weight:0", "stem.weight:0")],
    masked=["qkv.weight:0", "qkv.bias:0"],
    inputs=lambda batch: (tokens(batch),),
)
class FusedQkv(Attended):
    """(3, heads, head_dim) is one axis: q, k and v lose the same places of each head."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(12, 36)
        self.num_heads = 3
        self.scale = 4**-0.5

    def attention(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        weights = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1)
        return (weights @ v).transpose(1, 2).reshape(b, n, c)


@network(
    "fused qkv, chunked before the heads",
    free=["stem.weight:0", "qkv.weight:0"],
    coupled=[("qkv.weight:0[:12]", "qkv.weight:0[12:24]"), ("qkv.weight:0[24:]", "proj.weight:1")],
    apart=[("qkv.weight:0[:12]", "qkv.weight:0[24:]")],
    masked=["qkv.weight:0", "qkv.bias:0"],
    inputs=lambda batch: (tokens(batch),),
)
class ChunkedQkv(Attended):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(12, 36)

    def attention(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (part.reshape(b, n, 3, -1).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        y = F.scaled_dot_product_attention(q, k, v)
        return y.transpose(1, 2).flatten(2)


@network(
    "SDPA",
    free=["stem.weight:0", "q.weight:0", "k.weight:0", "v.weight:0"],
    coupled=[("q.weight:0", "k.weight:0"), ("v.weight:0", "proj.weight:1")],
    apart=[("q.weight:0", "v.weight:0")],
    masked=QKV,
    inputs=lambda batch: (tokens(batch),),
)
class Sdpa(BmmAttention):
    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (3, 4)).transpose(1, 2)

    def attention(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(self.q(x)), self.heads(self.k(x)), self.heads(self.v(x))
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=0.1 if self.training else 0.0)
        return y.transpose(1, 2).reshape(x.shape[0], x.shape[1], 12)


@network(
    "grouped-query attention",
    free=["stem.weight:0", "q.weight:0", "k.weight:0", "v.weight:0"],
    coupled=[
        ("q.weight:0[0:4]", "k.weight:0[0:4]"),
        ("q.weight:0[4:8]", "k.weight:0[0:4]"),
        ("v.weight:0[0:4]", "proj.weight:1[0:4]"),
    ],
    apart=[("q.weight:0", "v.weight:0")],
    masked=QKV,
    inputs=lambda batch: (tokens(batch),),
)
class GroupedQuery(Attended):
    """4 heads of queries share 2 heads of keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(12, 16)
        self.k = nn.Linear(12, 8)
        self.v = nn.Linear(12, 8)
        self.proj = nn.Linear(16, 12)

    def attention(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, 4, 4).transpose(1, 2)
        k = self.k(x).view(b, n, 2, 4).transpose(1, 2).repeat_interleave(2, dim=1)
        v = self.v(x).view(b, n, 2, 4).transpose(1, 2).repeat_interleave(2, dim=1)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, 16)


@network(
    "cross-covariance attention",
    free=["stem.weight:0", "v.weight:0"],
    coupled=[("v.weight:0", "k.weight:0"), ("q.weight:0", "proj.weight:1")],
    inexact=["k.weight:0"],
    inputs=lambda batch: (tokens(batch),),
)
class CrossCovariance(BmmAttention):
    """Attention between channels: the softmax runs over them."""

    def attention(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, 3, 4).permute(0, 2, 3, 1) for f in (self.q, self.k, self.v))
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        y = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return y.permute(0, 3, 1, 2).reshape(b, n, 12)


class TorchAttention(Attended):
    """`nn.MultiheadAttention` between residual layers."""

    batch_first = True

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(12, 3, batch_first=self.batch_first)

    def attention(self, x: Tensor) -> Tensor:
        return self.attn(x, x, x, need_weights=False)[0]


MHA: dict[str, Any] = {
    "free": ["stem.weight:0"],
    "coupled": [("stem.weight:0", "attn.in_proj_weight:1"), ("stem.weight:0", "proj.weight:0")],
    "masked": [
        "attn.in_proj_weight:0",
        "attn.in_proj_weight:1",
        "attn.in_proj_bias:0",
        "attn.out_proj.weight:1",
    ],
}

network("nn.MultiheadAttention, batch first", inputs=lambda batch: (tokens(batch),), **MHA)(TorchAttention)


@network("nn.MultiheadAttention, sequence first", inputs=lambda batch: (tokens(batch).transpose(0, 1),), **MHA)
class TorchAttentionSequenceFirst(TorchAttention):
    batch_first = False


@network(
    "transformer block with class token and positions",
    free=["stem.weight:0", "qkv.weight:0", "fc1.weight:0"],
    frozen=["position:1"],
    coupled=[
        ("stem.weight:0", "token:2"),
        ("stem.weight:0", "position:2"),
        ("stem.weight:0", "gamma:0"),
        ("stem.weight:0", "fc2.weight:0"),
        ("fc1.weight:0", "fc2.weight:1"),
    ],
    apart=[("stem.weight:0", "fc1.weight:0")],
    inexact=["stem.weight:0"],
    inputs=lambda batch: (tokens(batch),),
)
class TransformerBlock(FusedQkv):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 12))
        self.position = nn.Parameter(torch.zeros(1, 7, 12))
        self.norm1 = nn.LayerNorm(12)
        self.norm2 = nn.LayerNorm(12)
        self.gamma = nn.Parameter(torch.ones(12))
        self.fc1 = nn.Linear(12, 20)
        self.fc2 = nn.Linear(20, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        x = x + self.gamma * self.proj(self.attention(self.norm1(x)))
        x = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return self.head(x[:, 0])


@network(
    "window attention",
    free=["stem.weight:0", "qkv.weight:0"],
    frozen=["table:1"],
    coupled=[("stem.weight:0", "qkv.weight:1"), ("qkv.weight:0[24:]", "proj.weight:1")],
    masked=["qkv.weight:0", "qkv.bias:0"],
    inputs=lambda batch: (image(batch, 12).permute(0, 2, 3, 1).contiguous(),),
)
class WindowAttention(FusedQkv):
    """Shifted windows with a table of relative positions, one column a head."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(49, 3))
        grid = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")).flatten(1)
        offset = grid[:, :, None] - grid[:, None, :] + 3
        self.register_buffer("index", offset[0] * 7 + offset[1])

    def attention(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        x = torch.roll(x, shifts=(-2, -2), dims=(1, 2))
        x = x.view(b, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        qkv = self.qkv(x).reshape(x.shape[0], 16, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0] * self.scale, qkv[1], qkv[2]
        bias = self.table[self.index.view(-1)].view(16, 16, -1).permute(2, 0, 1).contiguous()
        weights = (q @ k.transpose(-2, -1) + bias.unsqueeze(0)).softmax(-1)
        x = (weights @ v).transpose(1, 2).reshape(x.shape[0], 16, c)
        x = x.view(b, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        return torch.roll(x, shifts=(2, 2), dims=(1, 2))
