"""Sounds of ten kinds, made here, as log-mel spectrograms: no recording is in them, and no figure on them is a paper's."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["KINDS", "clips", "mel_filters"]

_RATE = 16_000  # samples a second
Make = Callable[[Tensor, torch.Generator], Tensor]


def clips(count: int, seed: int, frames: int, bands: int, hop: int) -> tuple[Tensor, Tensor]:
    """Clips ``[count, 1, bands, frames]``, each of mean 0 and deviation 1, and their kinds ``[count]``, which come in turns.

    A clip is a sound of random pitch, rate and phase in white noise of its own, which is 5 dB below to 10 dB above it, and then
    the logarithm of the energy in `bands` bands (`mel_filters`) of windows of ``2 hop`` samples.
    """
    draws = torch.Generator().manual_seed(seed)
    time = torch.arange(frames * hop) / _RATE
    filters = mel_filters(bands, 2 * hop)
    window = torch.hann_window(2 * hop)
    found = torch.empty(count, 1, bands, frames)
    kinds = torch.arange(count) % len(KINDS)
    for clip, kind in zip(found, kinds.tolist(), strict=True):
        sound = KINDS[kind](time, draws)
        noise = 10 ** (_between(-5, 10, draws) / 20)
        sound = sound / sound.std() + noise * torch.randn(len(time), generator=draws)
        spectrum = torch.stft(sound, 2 * hop, hop, window=window, return_complex=True)[:, :frames].abs().square()
        loud = (filters @ spectrum).clamp_min(1e-10).log()
        clip[0] = (loud - loud.mean()) / loud.std()
    return found, kinds


def mel_filters(bands: int, window: int) -> Tensor:
    """Triangles ``[bands, window / 2 + 1]`` on the mel scale, ``2595 log10(1 + f / 700)``, up to half the sampling rate."""
    top = 2595 * math.log10(1 + _RATE / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, bands + 2) / 2595) - 1)
    low, middle, high = (edges[i : bands + i, None] for i in range(3))
    frequency = torch.linspace(0, _RATE / 2, window // 2 + 1)
    # Narrow triangles may lie between two frequencies: each has at least the width of one.
    step = _RATE / window
    rising = (frequency - low) / (middle - low).clamp_min(step)
    falling = (high - frequency) / (high - middle).clamp_min(step)
    return torch.minimum(rising, falling).clamp_min(0)


def _between(low: float, high: float, draws: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=draws))


def _tones(low: float, high: float, vibrato: float = 0.0) -> Make:
    """Four harmonics of a note between two frequencies, whose pitch sways by a share."""

    def make(time: Tensor, draws: torch.Generator) -> Tensor:
        note, rate, phase = _between(low, high, draws), _between(4, 7, draws), _between(0, 6.28, draws)
        turns = note * (time - vibrato / (2 * math.pi * rate) * torch.cos(2 * math.pi * rate * time + phase))
        return sum((torch.sin(2 * math.pi * k * turns + phase) / k for k in range(1, 5)), torch.zeros_like(time))

    return make


def _sweeps(start: float, end: float) -> Make:
    """One glide after the other, two to five a second."""

    def make(time: Tensor, draws: torch.Generator) -> Tensor:
        rate, phase, stretch = _between(2, 5, draws), _between(0, 1, draws), _between(0.8, 1.25, draws)
        place = (time * rate + phase) % 1
        return torch.sin(2 * math.pi * stretch * (start * place + (end - start) * place.square() / 2) / rate)

    return make


def _band(low: float, high: float, slowest: float, fastest: float) -> Make:
    """Noise of a band of frequencies whose loudness swells between two rates."""

    def make(time: Tensor, draws: torch.Generator) -> Tensor:
        spectrum = torch.fft.rfft(torch.randn(len(time), generator=draws))
        frequency = torch.linspace(0, _RATE / 2, len(spectrum))
        stretch, rate, phase = (_between(0.8, 1.25, draws), _between(slowest, fastest, draws), _between(0, 6.28, draws))
        kept = (frequency > low * stretch) & (frequency < high * stretch)
        swell = 1 + 0.9 * torch.sin(2 * math.pi * rate * time + phase)
        return torch.fft.irfft(spectrum * kept, len(time)) * swell

    return make


def _clicks(time: Tensor, draws: torch.Generator) -> Tensor:
    """Short decays of noise, six to twelve a second."""
    rate, phase = _between(6, 12, draws), _between(0, 1, draws)
    return torch.randn(len(time), generator=draws) * torch.exp(-200 * ((time * rate + phase) % 1) / rate)


KINDS: list[Make] = [
    _tones(120, 260),
    _tones(500, 1000),
    _tones(250, 500, vibrato=0.06),
    _sweeps(300, 3000),
    _sweeps(3000, 300),
    _band(200, 900, 2, 4),
    _band(200, 900, 9, 14),
    _band(2500, 6000, 2, 4),
    _band(2500, 6000, 9, 14),
    _clicks,
]
