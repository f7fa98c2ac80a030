"""A file of factories, and models without weights."""

from __future__ import annotations

import torch

NETS = """
from dataclasses import dataclass
from torch import nn
import neighbour

@dataclass
class Options:
    width: int = neighbour.WIDTH

def small():
    return nn.Sequential(nn.Conv2d(3, Options().width, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))

class Tiny(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)

ready = nn.Linear(3, 2)
number = 3

def list_of_layers():
    return [nn.Linear(1, 1)]

def broken():
    raise KeyError("width")
"""


def on_meta(build, *args, **kwargs):
    with torch.device("meta"):
        return build(*args, **kwargs)
