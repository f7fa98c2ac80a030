"""Where in the model's code something happens: the innermost line that is neither ours nor PyTorch's."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import CodeType, FrameType

import torch

__all__ = ["Place", "is_models_code", "line_of_error", "line_running", "place_in", "place_running"]

# Code of the model, and the instruction of it that runs: `CodeType.co_positions` says which expression that is.
Place = tuple[CodeType, int]

_OTHERS = (f"{Path(__file__).parents[1]}{os.sep}", f"{torch.__path__[0]}{os.sep}")
_STANDARD = f"{Path(os.__file__).parent}{os.sep}"  # Python's own library
_SHOWN: dict[str, str] = {}  # file -> how it is shown, "" if it is none of the model's


def line_running() -> str:
    """``folder/file.py:12`` of the model's code that runs now; empty where there is none."""
    return place_running()[0]


def place_running() -> tuple[str, Place | None]:
    """The same, and the expression there."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = _shown(frame.f_code.co_filename)
        if name and not name.startswith("<"):
            return f"{name}:{frame.f_lineno}", (frame.f_code, frame.f_lasti)
        frame = frame.f_back
    return "", None


def line_of_error(error: BaseException) -> str:
    """The same of the code that raised an error."""
    place, frames = "", error.__traceback__
    while frames is not None:
        name = _shown(frames.tb_frame.f_code.co_filename)
        if name:
            place = f"{name}:{frames.tb_lineno}"
        frames = frames.tb_next
    return place


def is_models_code(frame: FrameType) -> bool:
    """Whether a frame runs code that is neither ours nor that of PyTorch or Python."""
    name = _shown(frame.f_code.co_filename)
    return bool(name) and not name.startswith("<")


def place_in(frame: FrameType) -> str:
    """``folder/file.py:12`` of what a frame runs."""
    return f"{_shown(frame.f_code.co_filename)}:{frame.f_lineno}"


def _shown(file: str) -> str:
    """A file by its name and its folder's; empty for one of ours or PyTorch's."""
    found = _SHOWN.get(file)
    if found is None:
        others = file.startswith(_OTHERS) or (file.startswith(_STANDARD) and f"{os.sep}site-packages{os.sep}" not in file)
        found = _SHOWN[file] = "" if others else "/".join(file.replace("\\", "/").split("/")[-2:])
    return found
