"""What a repair could not undo (published: Hassibi & Stork, "Second Order Derivatives for Network Pruning: Optimal Brain
Surgeon", NeurIPS 1992, after LeCun et al., "Optimal Brain Damage", NeurIPS 1989; by structures with updates in between:
Meng et al., "OSSCAR: One-Shot Structured Pruning in Vision and Language Models with Combinatorial Optimization", ICML 2024)."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from fxprune.analysis.analysis import Analysis
from fxprune.analysis.groups import Group
from fxprune.criteria.attention_error import power_of, products_added
from fxprune.criteria.base import Tensors
from fxprune.criteria.magnitude import L2
from fxprune.criteria.observing import ActivationCriterion, Key, Sums
from fxprune.errors import InputError
from fxprune.statistics.maps import Maps
from fxprune.statistics.products import Products
from fxprune.statistics.spot import Hook

__all__ = ["Reader", "Surgeon", "greedy_losses"]

_WIDEST = 1024  # inputs of a layer that has a Gram matrix
_ROUGHLY = "surgeon's losses are approximate for {} of the {} layers that read channels: they have more than {:,} inputs"
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Surgeon(ActivationCriterion):
    """The error that the layers which read a channel make without it, once their other weights have made up for it.

    A reader's outputs are ``Y = X W``, with a row of ``X`` for each position and a block of its columns for each channel ``c``
    (the taps of a kernel). With centred ``X`` and ``H = (X^T X + ridge * mean(diag(X^T X)) I)^-1``, taking ``c`` away and
    fitting the rest anew changes the outputs by::

        loss(c) = tr(W_c^T ((H_cc)^-1 - ridge' I) W_c)       as a share of tr(W^T X^T X W), summed over the readers

    which for single weights is Optimal Brain Surgeon's ``w_q^2 / 2 H_qq`` but for the factor, and what moving the other weights
    costs (``ridge'``, the number that is added) but not that of the one that goes: what is never active is worth nothing.
    Channels go one by one, each time the one of least loss, and what is left is brought up to date, as in OSSCAR::

        W <- W - H_:c (H_cc)^-1 W_c                 H <- H - H_:c (H_cc)^-1 H_c:

    A channel's score is the loss at which it went, or the largest before it where that is more, so that the order stands.
    Channels that only other layers read (grouped and transposed convolutions) score their share of the squared weights that
    produce them.

    Where queries meet keys, the reader is the attention itself, ``o_i = sum_j a_ij v_j``, ``a_i = softmax_j(l_ij)``, whose
    logits are a sum over channels, ``l_ij = scale * sum_c q_ic k_jc`` and what is added to them. As the softmax changes by
    ``da_ij = a_ij (dl_ij - sum_j a_ij dl_ij)``, the term of a channel moves the output, at first order, by::

        x_ic = scale * q_ic cov_i(k_c, v)        cov_i: covariance over the keys j, which weigh a_ij

    and the loss is the one above with ``G = sum_i x_i x_i^T`` (over queries, images, heads and entries of the output) for
    ``X^T X``, and a one for each weight: the others make up for a channel by being rescaled. It is a share of the power of
    ``o``, and adds to the losses of the layers that read the same channels. Products are seen in calls of
    ``scaled_dot_product_attention`` and where they are written out (`fxprune.statistics.products.products_in`).

    For a ranking over all groups the loss counts by what is saved for it: it is divided by the share of the model's
    multiply-accumulates that goes with the channel (while all others are there). Such scores compare between layers: by default
    they are not normalised.

    All this holds for layers with up to 1,024 inputs (channels times taps). Above, the loss is approximate: such a layer takes
    its taps for independent of each other and of one Gram matrix, the channels'; one with more channels than that takes the
    channels for uncorrelated, too, and nothing is brought up to date. `notes`, and the report of `fxprune.prune`, say how many.

    Args:
        positions: of each batch's maps, or tokens, so many are drawn; all its images share them.
        ridge: as a share of the mean square of the inputs.
        greedy: bring what is left up to date after each channel; otherwise ``loss(c)`` of the whole layer.
        per_mac: divide by what is saved.
    """

    default_hook: Hook = "consumer"
    attends = True
    default_reduction = "sum"
    default_normalization = "none"

    def __init__(
        self, *args: Any, positions: int = 32, ridge: float = 1e-3, greedy: bool = True, per_mac: bool = True, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        if positions < 1 or not ridge > 0:
            raise InputError(f"positions and ridge must be positive, not {positions} and {ridge}")
        self.positions, self.ridge, self.greedy, self.per_mac = positions, ridge, greedy, per_mac
        self._generators: dict[str, torch.Generator] = {}
        self._saves: dict[str, float] = {}
        self.notes: list[str] = []

    def receive(self, sums: Mapping[Key, Sums], analysis: Analysis) -> None:
        super().receive(sums, analysis)
        layers = [s for s in self._sums.values() if "wide" in s]
        wide = sum(float(s["wide"]) > 0 for s in layers)
        self.notes = [_ROUGHLY.format(wide, len(layers), _WIDEST)] if wide else []
        whole = analysis.cut().total_macs
        least = 1 / max(whole, 1)
        for group in analysis.free if self.per_mac else ():
            self._saves[group.id] = max((whole - analysis.cut({group.id: [0]}).total_macs) * least, least)

    def observe(self, maps: Maps) -> Sums:
        convolved = isinstance(maps.module, _CONVOLUTIONS)
        drawn = (_windows if convolved else _places)(maps, self.positions, self._generator(maps.spot.group, maps.spot.node))
        assert maps.weight is not None
        channels, entries, taps = drawn[0].shape[1:]
        weight = maps.weight.double().reshape(channels, entries, -1, taps).transpose(2, 3)  # [channels, entries, taps, outputs]
        rows = torch.stack(drawn)  # [positions, images, channels, entries, taps]
        rough = math.prod(rows.shape[2:]) > _WIDEST
        if rough:
            rows = rows[: max(1, self.positions // taps)]  # each of which gives a row a tap
            rows, weight = rows.movedim(4, 0).unsqueeze(5), weight.unsqueeze(2)  # and outputs for each tap
        x = rows.flatten(-3).flatten(0, -2).double()
        wide, weight = x.shape[1] > _WIDEST, weight.flatten(1, 2).flatten(2)
        return {
            "products": x.square().sum(0) if wide else x.T @ x,
            "sums": x.sum(0),
            "rows": torch.tensor(float(len(x)), dtype=torch.float64, device=x.device),
            "weight": weight.norm(dim=2, keepdim=True) if wide else weight,  # nothing else of uncorrelated channels counts
            "batches": torch.ones((), dtype=torch.float64),
            "wide": torch.tensor(float(rough), dtype=torch.float64),
        }

    def attend(self, products: Products) -> Sums:
        place = products.product
        return products_added(products, self.positions, self._generator(place.group, place.node))

    def _generator(self, group: str, node: str) -> torch.Generator:
        """Of the draws at one place, whatever other places there are."""
        name = f"{group} {node}"
        if name not in self._generators:
            seed = self.seed * 1_000_003 + zlib.crc32(name.encode())
            self._generators[name] = torch.Generator().manual_seed(seed)
        return self._generators[name]

    def __call__(self, group: Group, tensors: Tensors) -> Tensor:
        self._check(group)
        readers = [Reader.of(s, self.ridge) for (name, _), s in sorted(self._sums.items()) if name == group.id]
        if not readers:
            energy = L2("mean", "none")(group, tensors).square()
            lost = energy / energy.sum().clamp_min(1e-300)
        else:
            lost = greedy_losses(readers) if self.greedy else torch.stack([r.losses() for r in readers]).sum(0)
        return self.settle([lost / self._saves.get(group.id, 1.0)])

    def measure(self, sums: Sums) -> Tensor:
        reader = Reader.of(sums, self.ridge)
        return greedy_losses([reader]) if self.greedy else reader.losses()


@dataclass
class Reader:
    """A layer that reads the channels, and what is left of it.

    Attributes:
        inverse: ``H`` as ``[channels, block, channels, block]``; of uncorrelated channels ``[channels, block, block]``.
        added: to the diagonal of ``X^T X``.
        weight: ``[channels, block, outputs]``; of uncorrelated channels its norms over the outputs.
        power: of its outputs, by which losses are divided.
    """

    inverse: Tensor
    added: float
    weight: Tensor
    power: float
    _fixed: Tensor | None = None

    @classmethod
    def of(cls, sums: Sums, ridge: float) -> Reader:
        """From the sums over all batches."""
        if "gram" in sums:
            return cls._attending(sums["gram"], power_of(sums), ridge)
        weight = sums["weight"] / sums["batches"]
        channels, block, _ = weight.shape
        if weight.shape[2] > channels * block:  # turned into as many outputs as inputs, all products stay as they are
            weight = torch.linalg.qr(weight.flatten(0, 1).T, mode="r").R.T.reshape(channels, block, -1)
        products, total = sums["products"], sums["sums"]
        flat = weight.flatten(0, 1)
        if products.dim() == 1:
            gram = (products - total**2 / sums["rows"]).clamp_min(0)
            power = float((gram.unsqueeze(1) * flat.square()).sum())
            added = ridge * float(gram.mean()) or 1.0
            return cls(torch.diag_embed(1 / (gram + added).view(channels, block)), added, weight, power)
        gram = products - torch.outer(total, total) / sums["rows"]
        power = float((flat * (gram @ flat)).sum())
        added = max(ridge * float(gram.diagonal().mean()), 0.0) or 1.0
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram + added * torch.eye(len(gram), dtype=gram.dtype)))
        return cls(inverse.view(channels, block, channels, block), added, weight, power)

    @classmethod
    def _attending(cls, gram: Tensor, power: float, ridge: float) -> Reader:
        """Attention, which reads each channel's product of query and key with a weight of one."""
        channels = len(gram)
        added = ridge * float(gram.diagonal().mean()) or 1.0
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram + added * torch.eye(channels, dtype=gram.dtype)))
        return cls(inverse.view(channels, 1, channels, 1), added, torch.ones(channels, 1, 1, dtype=gram.dtype), power)

    def losses(self) -> Tensor:
        """``[channels]``: of each channel, if it went next; of uncorrelated channels it stays what it was."""
        if self._fixed is not None:
            return self._fixed
        found = self._losses()
        if self.inverse.dim() == 3:
            self._fixed = found
        return found

    def _losses(self) -> Tensor:
        blocks = self.inverse
        if blocks.dim() == 4:
            each = torch.arange(len(blocks))
            blocks = blocks[each, :, each]
        whole = self.weight / blocks if blocks.shape[1] == 1 else torch.linalg.solve(blocks, self.weight)
        found = (self.weight * (whole - self.added * self.weight)).sum((1, 2)).clamp_min(0)
        return found / self.power if self.power > 0 else torch.zeros_like(found)

    def remove(self, channel: int) -> None:
        """Take a channel away, and fit what is left anew."""
        if self.inverse.dim() == 3:
            return
        column = self.inverse[:, :, channel].clone()  # [channels, block, block]
        own = column[channel]
        self.weight = self.weight - column @ torch.linalg.solve(own, self.weight[channel])
        flat = column.flatten(0, 1)
        self.inverse.view(len(flat), len(flat)).sub_(flat @ torch.linalg.solve(own, flat.T))
        self.inverse[channel, :, channel] = torch.eye(len(own), dtype=own.dtype)  # so that it can be solved with; it has gone


def greedy_losses(readers: list[Reader]) -> Tensor:
    """``[channels]``: the loss at which each channel goes, the one of least loss first; never less than any before it."""
    channels = len(readers[0].weight)
    scores, gone, most = torch.zeros(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.bool), 0.0
    for channel, loss in _sequence(readers, gone):
        most = max(most, loss)
        scores[channel] = most
    return scores


def _sequence(readers: list[Reader], gone: Tensor) -> Iterator[tuple[int, float]]:
    for _ in range(len(gone)):
        losses = torch.stack([reader.losses() for reader in readers]).sum(0).masked_fill(gone, math.inf)
        channel = int(losses.argmin())
        yield channel, float(losses[channel])
        gone[channel] = True
        for reader in readers:
            reader.remove(channel)
            reader.weight[channel] = 0


def _places(maps: Maps, count: int, generator: torch.Generator) -> list[Tensor]:
    """``[images, channels, entries, 1]`` at some positions of what a linear layer reads."""
    values = maps.values.unflatten(2, (maps.spot.entries.shape[1], -1)).flatten(3)
    chosen = torch.randperm(values.shape[3], generator=generator)[:count]
    return [values[..., int(position)].unsqueeze(3) for position in chosen]


def _windows(maps: Maps, count: int, generator: torch.Generator) -> list[Tensor]:
    """``[images, channels, entries, taps]`` at some positions of what a convolution reads; they have three dimensions here."""
    layer = maps.module
    assert isinstance(layer, _CONVOLUTIONS)
    missing = 3 - len(layer.kernel_size)
    kernel, stride, dilation = ((1,) * missing + v for v in (layer.kernel_size, layer.stride, layer.dilation))
    values = pad(maps.values.unflatten(2, (maps.spot.entries.shape[1], -1)), list(layer._reversed_padding_repeated_twice))
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    sizes = [(size - span) // s + 1 for size, span, s in zip(values.shape[3:], spans, stride, strict=True)]
    found = []
    for place in torch.randperm(math.prod(sizes), generator=generator)[:count].tolist():
        window: list[slice] = []
        for size, span, s, d in reversed(list(zip(sizes, spans, stride, dilation, strict=True))):
            start = place % size * s
            place //= size
            window.insert(0, slice(start, start + span, d))
        found.append(values[:, :, :, window[0], window[1], window[2]].flatten(3))
    return found
