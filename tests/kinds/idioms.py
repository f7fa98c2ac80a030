"""What libraries of models write, network by network as small as can be."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from tests.kinds.base import Case, Written, net, rows

__all__ = ["CASES"]


class BeforeLayers(Written):
    """What was written comes before the first layer, as `between(model, x)`."""

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(self.between(self, x)).relu())


def _wants_gradient(model: nn.Module, x: Tensor) -> Tensor:
    x = x * 2
    if model.training:
        x.requires_grad = True  # so that checkpoints of the first layers have one
    return x


def _wants_gradient_by_method(model: nn.Module, x: Tensor) -> Tensor:
    made = torch.zeros_like(x, requires_grad=model.training)
    if model.training:
        made.requires_grad_(True)
    return x + made


def _checked(model: nn.Module, h: Tensor) -> Tensor:
    flag = h.shape[0] > 0
    if callable(flag):
        flag = flag()
    torch._check_with(ValueError, flag, lambda: "no samples")
    return h.relu()


def _keeps_anchors(model: nn.Module, h: Tensor) -> Tensor:
    if model.shape != h.shape:  # a detector makes its grid anew where the size of the image changes
        model.shape = h.shape
        model.anchors = torch.arange(h.shape[0], dtype=h.dtype).unsqueeze(1).new_full((h.shape[0], 1), model.stride[0])
    return h.relu() + model.anchors


class Detector(Written):
    """What a detector keeps of its last run, and the strides of its levels."""

    def __init__(self) -> None:
        super().__init__(_keeps_anchors)
        self.shape, self.anchors, self.stride = None, torch.empty(0), torch.tensor([8.0, 16.0])


def _shrinks_window(model: nn.Module, h: Tensor) -> Tensor:
    if min(h.shape[1:]) <= model.window:
        model.window = min(h.shape[1:])
    return h.relu() + (0.1 if model.training else 0.2) * model.window


def _keeps_last(model: nn.Module, h: Tensor) -> Tensor:
    model.last.clear()
    model.last["h"] = h
    return model.last["h"].relu() * (2 if model.training else 1)


def _warns(model: nn.Module, h: Tensor) -> Tensor:
    if 0 in h[:, [0, -1]] or h.isnan().any():  # a library warns of tokens that pad
        model.warned = True
    return h.relu()


def _warns_twice(model: nn.Module, h: Tensor) -> Tensor:
    for half in (h[:, :8], h[:, 8:]):
        if torch.all(half > 0):
            logging.getLogger(__name__).debug("nothing is cut off")
    return h.relu()


def _clamps(model: nn.Module, h: Tensor) -> Tensor:
    if not torch.isfinite(h).all():
        h = h.clamp(-1, 1)
    return h.relu()


def _raises(model: nn.Module, h: Tensor) -> Tensor:
    if h.isnan().any():
        raise ValueError("the input is not a number")
    return h.relu()


def _waits(model: nn.Module, h: Tensor) -> Tensor:
    while not (h > 0).all():
        h = h + 1
    return h


def _through_spectra(model: nn.Module, h: Tensor) -> Tensor:
    """Features [n, 16], told apart as [n, 16, 1] -> their spectra over time, and back."""
    waves = h.unsqueeze(2) * torch.arange(1.0, 9.0)
    return torch.fft.irfft(torch.fft.rfft(waves, dim=2).real, n=8, dim=2).mean(dim=2)


class Spectra(nn.Module):
    """A network of spectrograms, which are made and undone by it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 8, 1), nn.Conv2d(8, 2, 1)
        self.register_buffer("window", torch.hann_window(16))

    def forward(self, x: Tensor) -> Tensor:
        """Waves [n, 64] -> [n, 64]."""
        spectra = torch.view_as_real(torch.stft(x, 16, 4, window=self.window, return_complex=True))
        made = self.b(self.a(spectra.permute(0, 3, 1, 2)).relu()).permute(0, 2, 3, 1).contiguous()
        return torch.istft(torch.view_as_complex(made), 16, 4, window=self.window, length=x.shape[-1])


def _waves(batch: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 64),)


def _counts(model: nn.Module, h: Tensor) -> Tensor:
    rows = h[:, 0].float() if h.device.type == "cpu" else h[:, 0].int()  # which has no kernel on a processor
    return h.relu() * torch.histc(rows, bins=4, min=-1, max=1).sum()


def _lent(model: nn.Module, h: Tensor) -> Tensor:
    return torch.func.functional_call(model.c, {"weight": model.c.weight * 2}, (h,))


def _lent_twice(model: nn.Module, h: Tensor) -> Tensor:
    return _lent(model, model.c(h).relu())


def _lent_constants(model: nn.Module, h: Tensor) -> Tensor:
    return torch.func.functional_call(model.c, {"weight": torch.eye(16), "bias": model.c.bias}, (h,))


def _lent_to_norm(model: nn.Module, h: Tensor) -> Tensor:
    return torch.func.functional_call(model.norm, {"weight": model.norm.weight + 1}, (h,))


def _sets_data(model: nn.Module, h: Tensor) -> Tensor:
    made = h.clone()
    made.data = h.relu()
    return made


def _forks(model: nn.Module, h: Tensor) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        return h + torch.randn(16)


CASES = [
    Case("a layer lent another weight", net(_lent, c=lambda: nn.Linear(16, 16)), rows),
    Case("a layer with its own weight, then another", net(_lent_twice, c=lambda: nn.Linear(16, 16)), rows),
    Case("a layer lent a constant", net(_lent_constants, c=lambda: nn.Linear(16, 16)), rows, kept="a.weight: linear"),
    Case("a norm lent another weight", net(_lent_to_norm, norm=lambda: nn.BatchNorm1d(16)), rows, batches=(2, 3)),
    Case("data set", net(_sets_data), rows, refused=r"sets \.data of a tensor .*: write into it under torch\.no_grad"),
    Case("a random state of its own", net(_forks), rows, refused="fork_rng .*register it as a buffer"),
    Case(
        "dropout of channels in place",
        net(lambda m, h: m.drop(h.unsqueeze(2) * 1).squeeze(2), drop=nn.Dropout1d(0.5, True)),
        rows,
    ),
    Case("a branch on the kind of device", net(_counts), rows),
    Case("a grid kept for the last size", Detector, rows),
    Case("a window that is at most the image", net(_shrinks_window, window=32), rows),
    Case("the last features kept in a dict", net(_keeps_last, last=dict), rows),
    Case("spectra over another axis than channels", net(_through_spectra), rows),
    Case("spectrograms made and undone", Spectra, _waves),
    Case("a branch on values that only notes something", net(_warns), rows),
    Case("two branches on values that only warn", net(_warns_twice), rows),
    Case("a branch on values that changes them", net(_clamps), rows, refused="depends on the values of the tensor"),
    Case("a branch on values that raises", net(_raises), rows, refused="depends on the values of the tensor"),
    Case("a loop until values are right", net(_waits), rows, refused="depends on the values of the tensor"),
    Case("requires_grad set on an input's copy in training", lambda: BeforeLayers(_wants_gradient), rows),
    Case("requires_grad_ in training alone", lambda: BeforeLayers(_wants_gradient_by_method), rows),
    Case("a flag that is asked whether it can be called", net(_checked), rows),
]
