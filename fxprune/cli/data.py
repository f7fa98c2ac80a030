"""What commands of `fxprune` make of ``--data`` and the options beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fxprune.errors import InputError, shown

if TYPE_CHECKING:
    from torch import Tensor

    from fxprune.inputs.data import DataSpec

__all__ = ["data_spec"]

_BATCH = 64


def data_spec(
    source: str | None, inputs: tuple[Tensor, ...] | None, shaping: tuple[Any, ...], **options: Any
) -> DataSpec | None:
    """The data of ``--data``; None if there is none.

    Args:
        inputs: example inputs, if the command line gave any: their shape is that of images.
        shaping: what the options ``--mean``, ``--std`` and ``--crop`` say.
        options: other fields of `DataSpec`; of ``batches`` so many of 64 samples.

    Raises:
        InputError: an option is no number, or is given without data.
    """
    mean, std, crop = shaping
    if source is None:
        if given := [name for name, value in zip(("--mean", "--std", "--crop"), shaping, strict=True) if value is not None]:
            raise InputError(f"{given[0]} says how images are prepared: give --data, too")
        return None
    from fxprune.inputs.data import DataSpec

    size = tuple(inputs[0].shape[1:]) if inputs is not None and len(inputs) == 1 and inputs[0].dim() == 4 else None
    batches = options.pop("batches", None)
    if batches is not None:
        options["limit"] = _BATCH * batches
    return DataSpec(source, size, _numbers(mean, "--mean"), _numbers(std, "--std"), crop, **options)


def _numbers(text: str | None, option: str) -> tuple[float, ...] | None:
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"{option} {shown(text)} is not a number for each channel: write 0.485,0.456,0.406") from error
