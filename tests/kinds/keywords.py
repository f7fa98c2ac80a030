"""Calls whose tensors and sizes are given by keyword."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.kinds.base import Case, images, net, rows

__all__ = ["CASES"]


def _attention(model: nn.Module, h: Tensor) -> Tensor:
    q = h.view(h.shape[0], 2, 2, 4)
    return F.scaled_dot_product_attention(query=q, key=q * 2, value=q + 1, is_causal=True).flatten(start_dim=1)


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)
        self.norm, self.head = nn.GroupNorm(2, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(input=x, weight=self.a.weight, bias=self.a.bias, padding=1)
        y = F.group_norm(input=y, num_groups=2, weight=self.norm.weight, bias=self.norm.bias)
        y = F.relu(input=self.b(input=y), inplace=False)
        return F.linear(input=y.mean(dim=(2, 3)), weight=self.head.weight, bias=self.head.bias)


CASES = [
    Case("view", net(lambda m, h: h.view(size=(-1, 4, 4)).flatten(start_dim=1)), rows),
    Case("view with the batch", net(lambda m, h: h.view(size=(h.shape[0], 4, 4)).flatten(start_dim=1, end_dim=2)), rows),
    Case("reshape", net(lambda m, h: h.reshape(shape=(h.shape[0], 2, 8)).flatten(1)), rows),
    Case("reshape as a function", net(lambda m, h: torch.reshape(input=h, shape=(-1, 16))), rows),
    Case("permute", net(lambda m, h: h.view(-1, 16, 1).permute(dims=(0, 2, 1)).squeeze(dim=1)), rows),
    Case("transpose", net(lambda m, h: torch.transpose(input=h, dim0=0, dim1=1).t()), rows),
    Case("expand", net(lambda m, h: h.unsqueeze(dim=1).expand(size=(-1, 3, 16)).sum(dim=1)), rows),
    Case("repeat", net(lambda m, h: h.repeat(repeats=(1, 2))[:, :16]), rows),
    Case("chunk", net(lambda m, h: torch.cat(tensors=torch.chunk(input=h, chunks=2, dim=1)[::-1], dim=1)), rows),
    Case("split", net(lambda m, h: sum(h.split(split_size=8, dim=1)).repeat(1, 2)), rows),
    Case("narrow", net(lambda m, h: h.narrow(dim=1, start=0, length=16)), rows),
    Case("select", net(lambda m, h: h.unsqueeze(1).select(dim=1, index=0)), rows),
    Case("unflatten", net(lambda m, h: h.unflatten(dim=1, sizes=(4, 4)).flatten(1)), rows),
    Case("cat", net(lambda m, h: torch.cat(tensors=(h, h.relu()), dim=-1)[:, :16]), rows),
    Case("stack", net(lambda m, h: torch.stack(tensors=[h, h.relu()], dim=1).mean(dim=1)), rows),
    Case("pad", net(lambda m, h: F.pad(input=h, pad=(0, 0, 1, 0), value=1.0)[1:]), rows),
    Case("mean", net(lambda m, h: h - h.mean(dim=-1, keepdim=True)), rows),
    Case("attention", net(_attention), rows),
    Case("einsum", net(lambda m, h: torch.einsum("bc,bc->bc", h, h)), rows),
    Case("add", net(lambda m, h: torch.add(input=h, other=h, alpha=2)), rows),
    Case("clamp", net(lambda m, h: torch.clamp(input=h, min=-1, max=1)), rows),
    Case("layers", Convolutions, images),
    Case("size", net(lambda m, h: h.view(h.size(dim=0), 4, 4).view(h.size(dim=0), -1)), rows),
    Case("to", net(lambda m, h: h.to(dtype=torch.float64).to(dtype=torch.float32)), rows),
]
