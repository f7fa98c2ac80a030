"""A small network and data for fine-tuning."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

CLASSES = 3
QUICK = {"batch_size": 6, "epochs": 2, "lr": 0.1, "device": "cpu", "progress": False}


class Net(nn.Module):
    """``[n, 2, 6, 6] -> [n, 3]``: convolutions, norms and dropout."""

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        self.one = nn.Conv2d(2, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(dropout)
        self.two = nn.Conv2d(6, 4, 3)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.norm(self.one(x)).relu())
        return self.head(self.two(x).relu().mean((2, 3)))


def data(count: int = 22) -> TensorDataset:
    draws = torch.Generator().manual_seed(1)
    images = torch.randn(count, 2, 6, 6, generator=draws)
    return TensorDataset(images, torch.arange(count) % CLASSES)


class Noisy(Dataset):
    """Samples that draw from all three global generators each time they are read."""

    def __init__(self, count: int = 22) -> None:
        self.images, self.labels = data(count).tensors

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        import random

        import numpy as np

        noise = torch.randn(2, 6, 6) + random.random() + float(np.random.rand())
        return self.images[number] + 0.1 * noise, int(self.labels[number])


def tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def same(one: nn.Module, two: nn.Module) -> bool:
    """Bit for bit."""
    first, second = tensors(one), tensors(two)
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)
