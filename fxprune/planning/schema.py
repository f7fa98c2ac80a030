"""The JSON schema of plans, for whoever reads or writes them without this package."""

from __future__ import annotations

from typing import Any

from fxprune.options import BUDGETS

__all__ = ["plan_schema"]

_TEXT: dict[str, Any] = {"type": "string"}
_COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
_NUMBER: dict[str, Any] = {"type": "number"}
_NUMBERS = {"type": "array", "items": _COUNT}
_BEFORE_AND_AFTER = {**_NUMBERS, "minItems": 2, "maxItems": 2}
_TEXTS = {"type": "object", "additionalProperties": _TEXT}

_MEMBER = {
    "description": "name of a tensor, axis, role: producer, consumer or affine",
    "type": "array",
    "prefixItems": [_TEXT, _COUNT, _TEXT],
    "minItems": 3,
    "maxItems": 3,
}


def _record(optional: tuple[str, ...] = (), **properties: dict[str, Any]) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def plan_schema(first: int, version: int) -> dict[str, Any]:
    """What `fxprune.Plan.schema` gives."""
    group = _record(
        id=_TEXT,
        size=_COUNT,
        status={"enum": ["free", "protected", "frozen"]},
        reason={**_TEXT, "description": "why it stays whole"},
        exact={"type": "boolean", "description": "no statistic runs over the channels"},
        members={"type": "array", "items": _MEMBER},
        kept={**_NUMBERS, "description": "channels that stay, sorted", "minItems": 1},
        scores={"type": ["array", "null"], "items": _NUMBER},
    )
    budget = _record(name={"enum": [*BUDGETS]}, asked=_NUMBER, target=_COUNT, before=_COUNT, after=_COUNT)
    account = _record(
        budgets={"type": "array", "items": budget},
        saliency={**_NUMBER, "description": "share that is kept"},
        bound={**_NUMBER, "description": "no plan within the budgets keeps a larger share"},
        notes={"type": "array", "items": _TEXT},
    )
    branch = _record(
        id={**_TEXT, "description": "the module in which its layers lie"},
        kept={"type": "boolean"},
        reason={**_TEXT, "description": "why it may not go"},
        macs={**_COUNT, "description": "that go with it alone, for one sample"},
        params=_COUNT,
        tensors={"type": "array", "items": _TEXT},
        score={"type": ["number", "null"]},
    )
    document = _record(
        optional=("account", "branches"),
        format={"const": "fxprune-plan"},
        version={"enum": [first, version], "description": f"{version} where branches are listed"},
        model={**_TEXT, "description": "class name"},
        fingerprint={**_TEXT, "description": "of the names and shapes of parameters and buffers"},
        options={"type": "object", "description": "the arguments that the plan was made with"},
        groups={"type": "array", "items": group},
        kept={
            "description": "tensor name -> axis -> indices that stay, for every axis that loses some",
            "type": "object",
            "additionalProperties": {"type": "object", "additionalProperties": _NUMBERS},
        },
        macs={**_BEFORE_AND_AFTER, "description": "for one sample"},
        params=_BEFORE_AND_AFTER,
        whole={**_TEXTS, "description": "parameters that no group lists -> why"},
        tied={**_TEXTS, "description": "other names of tied tensors -> the name that the plan uses"},
        example={"type": "array", "items": {"type": "object"}, "description": "shapes and dtypes of the example inputs"},
        account=account,
        branches={"type": "array", "items": branch},
    )
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"fxprune plan, version {version}", **document}
