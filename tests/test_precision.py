"""Dtypes, memory formats and odd storage of weights: kept as they are by pruning, and by what is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.body, self.head = nn.Conv2d(16, 8, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(torch.relu(self.norm(self.stem(x)))).mean((2, 3)))


class MixedNorms(Net):
    """Half precision with norms in float32, as trainers keep it."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.norm(x.float()).to(self.body.weight.dtype)
        return self.head(self.body(torch.relu(x)).mean((2, 3)))


def image(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, 3, 8, 8).to(dtype)


def made(kind: type[nn.Module] = Net, dtype: torch.dtype = torch.float32) -> nn.Module:
    model = kind().eval().to(dtype)
    nn.init.uniform_(model.norm.running_var, 0.5, 1.5)
    return model


def close(a: Tensor, b: Tensor) -> None:
    assert a.dtype is b.dtype and a.shape == b.shape
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-4}.get(a.dtype, 4e-2)
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_model_in_any_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    model, x = made(dtype=dtype), image(dtype)
    slim = fxprune.prune(model, 0.5, x)
    assert {p.dtype for p in slim.parameters()} == {dtype}
    assert fxprune.verify(model, slim, latency=False).passed
    assert slim(x).dtype is dtype
    again = fxprune.load(fxprune.save(slim, tmp_path))
    assert torch.equal(again(x), slim(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_with_norms_in_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    model, x = made(MixedNorms, dtype), image(dtype)
    model.norm.float()
    slim = fxprune.prune(model, 0.5, x)
    assert {n: p.dtype for n, p in slim.named_parameters()} == {n: p.dtype for n, p in model.named_parameters()}
    assert slim.norm.running_mean.dtype is torch.float32
    assert fxprune.verify(model, slim, latency=False).passed
    traced = fxprune.trace(model, x)
    assert torch.equal(traced(x), model(x))
    again = fxprune.load(fxprune.save(slim, tmp_path))
    assert torch.equal(again(x), slim(x))


class Follows(Net):
    """Casts its input to the dtype of its weights."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.stem.weight.dtype) * torch.ones(1, dtype=self.head.weight.dtype))


@pytest.mark.parametrize("kind", [Net, Follows])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_converting_what_was_recorded(dtype: torch.dtype, kind: type[nn.Module]) -> None:
    """`.half()`, `.double()` and the like do what they do to the original."""
    model, x = made(kind), image()
    traced, slim = fxprune.trace(model, x).to(dtype), fxprune.prune(model, 0.5, x).to(dtype)
    model.to(dtype)
    given = x.to(dtype) if kind is Net else x
    close(traced(given), model(given))
    assert slim(given).dtype is dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_around_the_slim_model(dtype: torch.dtype) -> None:
    model, x = made(), image()
    traced, slim = fxprune.trace(model, x), fxprune.prune(model, 0.5, x)
    with torch.autocast("cpu", dtype):
        assert traced(x).dtype is model(x).dtype is slim(x).dtype is dtype
        assert torch.equal(traced(x), model(x))


def test_complex_parameters() -> None:
    class Filter(nn.Module):
        """Scales the frequencies of each channel, as GFNet does."""

        def __init__(self) -> None:
            super().__init__()
            self.inside, self.outside = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)
            self.scale = nn.Parameter(torch.randn(8, 8, 5, dtype=torch.complex64))

        def forward(self, x: Tensor) -> Tensor:
            spectrum = torch.fft.rfft2(self.inside(x))
            return self.outside(torch.fft.irfft2(spectrum * self.scale, s=x.shape[-2:]))

    model, x = Filter().eval(), image()
    slim = fxprune.prune(model, 0.5, x, criterion="random", scope="layer")
    assert slim.scale.dtype is torch.complex64 and len(slim.scale) == 4


# -- memory -----------------------------------------------------------------------------------------------------------------


def test_channels_last_is_kept(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 3)).eval()
    model.to(memory_format=torch.channels_last)
    x = image().contiguous(memory_format=torch.channels_last)
    slim = fxprune.prune(model, 0.5, x)
    for found in (slim, fxprune.load(fxprune.save(slim, tmp_path))):
        assert all(p.is_contiguous(memory_format=torch.channels_last) for p in found.parameters() if p.dim() == 4)
        assert found(x).is_contiguous(memory_format=torch.channels_last) is model(x).is_contiguous(
            memory_format=torch.channels_last
        )


def test_plain_weights_stay_contiguous() -> None:
    slim = fxprune.prune(made(), 0.5, image())
    assert all(p.is_contiguous() for p in slim.parameters())


def odd(kind: str, weight: Tensor) -> Tensor:
    """The same numbers, stored otherwise."""
    if kind == "view":
        return torch.stack([weight, weight])[1]
    if kind == "transposed":
        return weight.transpose(0, 1).contiguous().transpose(0, 1)
    if kind == "every second":
        return torch.stack([weight, weight], dim=-1)[..., 0]
    return weight[:1].expand_as(weight)


@pytest.mark.parametrize("kind", ["view", "transposed", "every second", "expanded"])
def test_weights_stored_otherwise(kind: str, tmp_path: Path) -> None:
    model, x = made(), image()
    model.body.weight = nn.Parameter(odd(kind, model.body.weight.data))
    before = model.body.weight.clone()
    slim = fxprune.prune(model, 0.5, x, criterion="random", scope="layer")
    storages = {t.untyped_storage().data_ptr() for t in model.state_dict().values()}
    assert not storages & {t.untyped_storage().data_ptr() for t in slim.state_dict().values()}
    assert torch.equal(model.body.weight, before)
    again = fxprune.load(fxprune.save(slim, tmp_path))
    torch.testing.assert_close(again(x), slim(x))
    slim.train()(x).sum().backward()
    torch.optim.SGD(slim.parameters(), 0.1).step()
    assert torch.equal(model.body.weight, before)


def test_weights_in_one_storage() -> None:
    """Two parameters that are views of one buffer, as flat optimizers keep them, are two tensors of the slim model."""
    model, x = made(), image()
    flat = torch.cat([model.stem.weight.data.flatten(), model.body.weight.data.flatten()])
    cut = model.stem.weight.numel()
    model.stem.weight = nn.Parameter(flat[:cut].view_as(model.stem.weight))
    model.body.weight = nn.Parameter(flat[cut:].view_as(model.body.weight))
    slim = fxprune.prune(model, 0.5, x)
    assert slim.stem.weight.untyped_storage().nbytes() == slim.stem.weight.nbytes


def test_requires_grad_is_kept(tmp_path: Path) -> None:
    model, x = made(), image()
    model.stem.requires_grad_(False)
    model.norm.bias.requires_grad_(False)
    slim = fxprune.prune(model, 0.5, x)
    flags = {n: p.requires_grad for n, p in model.named_parameters()}
    for found in (slim, fxprune.load(fxprune.save(slim, tmp_path)), fxprune.trace(model, x)):
        assert {n: p.requires_grad for n, p in found.named_parameters()} == flags


@pytest.mark.parametrize("given", [torch.float16, torch.float64])
def test_inputs_of_another_dtype_are_refused(given: Any) -> None:
    with pytest.raises(fxprune.PruneError, match=r"failed on the example inputs.*test_precision\.py"):
        fxprune.prune(made(), 0.5, image(given))
