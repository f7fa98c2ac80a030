"""Values of a JSON document as the fields of dataclasses say that they are."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from fxprune.errors import shown

__all__ = ["typed"]


def typed(hint: Any, value: Any) -> Any:
    """A value of JSON as a value of that type: dataclasses, tuples, mappings, text, numbers, None, or any of these.

    JSON has no infinity and no NaN, and a document has null for them: a float that is null is NaN.

    Raises:
        ValueError: it is none.
    """
    origin = get_origin(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return None if value is None else typed(next(h for h in get_args(hint) if h is not type(None)), value)
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple([typed(get_args(hint)[0], entry) for entry in value])
    if isinstance(value, Mapping):
        if origin is not None and issubclass(origin, Mapping):
            key, entry = get_args(hint)
            return {float(k) if key is float else typed(key, k): typed(entry, v) for k, v in value.items()}
        if dataclasses.is_dataclass(hint):
            return _made(hint, value)
    if hint is float:
        if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
            return math.nan if value is None else float(value)
    elif type(value) is hint:
        return value
    raise ValueError(f"{shown(value)} is not what it should be: {getattr(hint, '__name__', hint)}")


def _made(kind: Any, data: Mapping[str, Any]) -> Any:
    hints = _hints(kind)
    if unknown := [name for name in data if name not in hints]:
        raise ValueError(f"{kind.__name__} has no field {shown(unknown[0])}")
    return kind(**{name: typed(hints[name], value) for name, value in data.items()})


@lru_cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)
