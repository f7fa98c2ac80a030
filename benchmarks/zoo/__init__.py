"""Models of ten libraries: one table of small configurations a library. Nothing is downloaded; weights are random."""

from __future__ import annotations

import importlib

from zoo.base import Entry

__all__ = ["LIBRARIES", "PACKAGES", "entries"]

# As they are installed.
PACKAGES = (
    *("transformers", "ultralytics", "segmentation-models-pytorch", "diffusers", "open-clip-torch", "pytorchcv", "torchaudio"),
    *("monai", "efficientnet-pytorch"),
)

# Library (as it is imported) -> the tables of its models, as module:name.
LIBRARIES = {
    "transformers": ("transformers_text:ENTRIES", "transformers_more:ENTRIES"),
    "ultralytics": ("yolo:ENTRIES",),
    "segmentation_models_pytorch": ("smp:ENTRIES",),
    "diffusers": ("diffusers_nets:ENTRIES",),
    "open_clip": ("clips:ENTRIES",),
    "pytorchcv": ("other_images:CV",),
    "torchaudio": ("sound_and_torch:AUDIO",),
    "monai": ("other_images:MONAI",),
    "efficientnet_pytorch": ("other_images:EFFICIENTNET",),
    "torch": ("sound_and_torch:OWN",),
}


def entries(library: str) -> dict[str, Entry]:
    """The models of a library by name."""
    found: dict[str, Entry] = {}
    for place in LIBRARIES[library]:
        module, _, name = place.partition(":")
        found |= {entry.name: entry for entry in getattr(importlib.import_module(f"zoo.{module}"), name)}
    return found
