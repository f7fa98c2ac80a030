"""Code that goes into every generated file as it stands: reads safetensors and fills a model with them.

Self-contained on purpose: the generated file must not import fxprune or safetensors.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

__all__ = ["fill", "read_beside", "read_safetensors", "waiting_name"]


def read_beside(source: Path, code: str) -> dict[str, torch.Tensor]:
    """The weights of a source file: under another name if a save stopped at its end."""
    beside = source.with_suffix(".safetensors")
    waiting = waiting_name(beside, code)
    for path in (beside, waiting, beside):  # twice, as a save may end just now
        try:
            with open(path, "rb") as file:
                tensors: dict[str, torch.Tensor] | None = read_safetensors(file, code)
        except FileNotFoundError:
            continue
        if tensors is not None:
            return tensors
    problem = f"{beside} is missing or was saved with other code"
    raise ValueError(f"{problem}: bring the two files of one save")


def waiting_name(weights: Path, code: str) -> Path:
    """Where weights lie until the source that they belong to is in its place."""
    return weights.with_name(f".{weights.stem}.{code}.safetensors")


def read_safetensors(file: Any, code: str | None = None) -> Any:
    """Read an open safetensors file: u64 header length, JSON header, raw values.

    None where the file bears the mark of other code than `code`.
    """
    size = file.seek(0, 2)
    file.seek(0)
    start = 8 + int.from_bytes(file.read(8), "little")
    broken = "not a whole safetensors file"
    if size < 8 or start > size:
        raise ValueError(f"{broken}: the header ends at byte {start} of {size}")
    try:
        header = json.loads(file.read(start - 8))
        marks = header.pop("__metadata__", None) or {}
        if code is not None and marks.get("code", code) != code:
            return None
        tensors = {}
        for name, entry in header.items():
            dtype = getattr(torch, DTYPES[entry["dtype"]])
            shape = [int(n) for n in entry["shape"]]
            begin, end = entry["data_offsets"]
            length, expected = end - begin, math.prod(shape) * dtype.itemsize
            if min(shape, default=0) < 0 or length != expected:
                raise ValueError(f"{name!r} of shape {shape} has {length} bytes")
            if begin < 0 or start + end > size:
                raise ValueError(f"{name!r} lies outside of the file")
            file.seek(start + begin)
            flat = torch.empty(0, dtype=dtype)
            if values := bytearray(file.read(length)):
                flat = torch.frombuffer(values, dtype=dtype)
            tensors[name] = flat.reshape(shape)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"{broken}: {error!r}") from error
    return tensors


# Generated files hold this table, a line of it in one of theirs.
TABLE = """
F64:float64 F32:float32 F16:float16 BF16:bfloat16 C64:complex64
I64:int64 I32:int32 I16:int16 I8:int8 BOOL:bool
U64:uint64 U32:uint32 U16:uint16 U8:uint8
F8_E4M3:float8_e4m3fn F8_E5M2:float8_e5m2
"""
DTYPES = dict(pair.split(":") for pair in TABLE.split())


def fill(model: nn.Module, tensors: dict[str, torch.Tensor], device: Any) -> None:
    """Give `model`, built on the meta device, its values; of tied ones one is stored."""
    everything = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    filled: dict[int, torch.Tensor] = {}
    for name, empty in everything:
        if id(empty) in filled:
            continue
        given, expected = tensors.get(name), tuple(empty.shape)
        if given is None or given.shape != empty.shape:
            found = "is missing" if given is None else f"has shape {tuple(given.shape)}"
            wrong = f"wrong weights: {name!r} {found}"
            raise ValueError(f"{wrong}, expected shape {expected}")
        value = given.to(device)
        if isinstance(empty, nn.Parameter):
            value = nn.Parameter(value, empty.requires_grad)
        filled[id(empty)] = value
    values = {name: filled[id(empty)] for name, empty in everything}
    if unknown := tensors.keys() - values.keys():
        raise ValueError(f"wrong weights: the model has no {min(unknown)!r}")
    stored = model.state_dict().keys()
    for name in values.keys() - stored:  # buffers that a state_dict leaves out
        owner, _, field = name.rpartition(".")
        setattr(model.get_submodule(owner), field, values.pop(name))
    model.load_state_dict(values, strict=True, assign=True)
