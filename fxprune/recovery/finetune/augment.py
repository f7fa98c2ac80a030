"""Images moved and mirrored, a whole batch at a time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fxprune.recovery.finetune import chance
from fxprune.recovery.finetune.options import FinetuneOptions

__all__ = ["moved"]


def moved(images: Tensor, options: FinetuneOptions, step: int, rows: Tensor, total: int) -> Tensor:
    """Images padded by `options.shift` zeros on each side and cropped at random, half of them mirrored if `options.flip`.

    He et al. 2016, section 4.2. What is drawn depends on the seed, the step and an image's place in the whole batch.

    Args:
        images: ``[n, channels, height, width]``.
        rows: the places ``[n]`` of these images in the whole batch.
        total: images of the whole batch.
    """
    n, _, height, width = images.shape
    draws = chance.generator(options.seed, "augment", step)
    down, right = torch.randint(2 * options.shift + 1, (2, total), generator=draws)[:, rows].to(images.device)
    mirror = (torch.rand(total, generator=draws)[rows] < 0.5).to(images.device)
    if options.shift:
        padded = F.pad(images, (options.shift,) * 4)
        y = down[:, None] + torch.arange(height, device=images.device)
        x = right[:, None] + torch.arange(width, device=images.device)
        picked = torch.arange(n, device=images.device)[:, None, None]
        images = padded[picked, :, y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)
    if options.flip:
        images = torch.where(mirror[:, None, None, None], images.flip(3), images)
    return images.contiguous()
