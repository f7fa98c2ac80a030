"""Loss and accuracy, added up on the device and over all processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Meter"]

_WHAT = ("loss", "images", "hits", "judged")


class Meter:
    """
    Attributes:
        totals: of the epoch so far: sum of losses, images, those named rightly, those that have one class to be named.
    """

    def __init__(self, device: torch.device) -> None:
        self.totals = dict.fromkeys(_WHAT, 0.0)
        self._window = torch.zeros(4, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)

    def add(self, loss: Tensor, output: Any, labels: Any, images: int) -> None:
        """A batch of this process: its mean loss, the model's output, the labels. Waits for no GPU."""
        new = self._window.new_tensor
        hits, judged = new(0), new(0)
        one_class = isinstance(labels, Tensor) and not labels.is_floating_point() and labels.shape == (images,)
        if one_class and isinstance(output, Tensor) and output.dim() == 2:
            hits, judged = (output.detach().argmax(1) == labels).sum().to(self._window), new(images)
        self._window += torch.stack([loss.to(self._window) * images, new(images), hits, judged])

    def flush(self, accelerator: Accelerator) -> dict[str, Any] | None:
        """Means since the last time, over all processes, which join the totals; None if nothing was seen."""
        seen = self._window if accelerator.num_processes == 1 else accelerator.reduce(self._window, "sum")
        values = dict(zip(_WHAT, map(float, seen.tolist()), strict=True))
        self._window.zero_()
        if not values["images"]:
            return None
        self.totals = {name: self.totals[name] + value for name, value in values.items()}
        return _means(values)

    def end(self) -> dict[str, Any]:
        """Means of the epoch, which ends."""
        found, self.totals = _means(self.totals), dict.fromkeys(_WHAT, 0.0)
        return found


def _means(totals: Mapping[str, float]) -> dict[str, Any]:
    judged = totals["judged"]
    return {
        "loss": totals["loss"] / max(totals["images"], 1.0),
        "accuracy": totals["hits"] / judged if judged else None,  # mixed images have no one class
        "images": int(totals["images"]),
    }
