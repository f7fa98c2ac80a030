"""Images mixed in pairs, by timm's mixup and CutMix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fxprune.recovery.finetune import chance
from fxprune.recovery.finetune.options import FinetuneOptions

if TYPE_CHECKING:
    from timm.data.mixup import Mixup

__all__ = ["Mixer"]


class Mixer:
    """Mixes image i of a batch of n with image n - 1 - i, all of them by one share, which is drawn from the seed and the step.

    So processes that hold whole pairs (`fxprune.recovery.finetune.data.share`) mix what one process would. The one in the
    middle of an odd batch stays as it is.
    """

    def __init__(self, options: FinetuneOptions, classes: int) -> None:
        from timm.data.mixup import Mixup

        self.seed = options.seed
        self.mix: Mixup = Mixup(
            mixup_alpha=options.mixup,
            cutmix_alpha=options.cutmix,
            prob=options.mix_prob,
            label_smoothing=options.label_smoothing,
            num_classes=classes,
        )

    def __call__(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """
        Args:
            images: ``[n, ...]``; they are not changed.
            labels: class numbers ``[n]``.

        Returns:
            New images, and for each the shares of the classes ``[n, classes]``.
        """
        from timm.data.mixup import mixup_target

        chance.seed_everything(self.seed, "mix", step, devices=False)
        half = len(images) // 2
        pairs = torch.cat([images[:half], images[len(images) - half :]])  # timm writes into what it gets
        mixed, target = self.mix(pairs, torch.cat([labels[:half], labels[len(labels) - half :]]))
        if len(images) % 2:
            alone = mixup_target(labels[half : half + 1], self.mix.num_classes, 1.0, self.mix.label_smoothing)
            mixed = torch.cat([mixed[:half], images[half : half + 1], mixed[half:]])
            target = torch.cat([target[:half], alone, target[half:]])
        return mixed, target
