"""Tensors moved to a device that the code names, which is where the model is."""

from __future__ import annotations

import torch

from tests.kinds.base import Case, net, rows

__all__ = ["CASES"]

_WAYS = {
    "cpu": lambda m, h: h.cpu(),
    "by a text": lambda m, h: h.to("cpu"),
    "by a device": lambda m, h: h.to(device=torch.device("cpu")),
    "with a dtype": lambda m, h: h.to("cpu", torch.float32, copy=True, non_blocking=True) * 2,
    "type by a text": lambda m, h: h.type("torch.FloatTensor"),
    "function": lambda m, h: torch.Tensor.to(h, "cpu"),
    "of a parameter": lambda m, h: h * m.a.bias.cpu() + m.a.bias.to("cpu"),
    "and written there": lambda m, h: (h.cpu().add_(1.0), h)[1],
    "filled there": lambda m, h: h + torch.full_like(h, 2.0, device="cpu") + h.new_zeros(h.shape, device="cpu"),
}

CASES = [
    *(Case(name, net(way), rows) for name, way in _WAYS.items()),
    Case("to another kind", net(lambda m, h: h.cuda()), rows, refused="is moved to 'cuda', where the model is on 'cpu'"),
    Case("to no device", net(lambda m, h: h.to("nowhere")), rows, refused="failed on the example inputs"),
    Case(
        "lengths that pack",
        net(lambda m, h: torch.nn.utils.rnn.pack_padded_sequence(h[:, None], (h[:, 0] > 9).long().cpu() + 1, True).data),
        rows,
        refused="depends on data",
    ),
]
