"""Base class for records that users write, and explanations of their faults."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic_core import ErrorDetails


class StrictModel(BaseModel):
    """A frozen record that refuses unknown keys, NaN and infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def explain(fault: ErrorDetails) -> str:
    """One line for one entry of a pydantic ValidationError.errors(): the key, what was expected, and what came."""
    field = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"unknown key {field!r}"
    if fault["type"] == "missing":
        return f"{field} is missing"
    got = "" if isinstance(fault.get("input"), dict) else f" (got {fault.get('input')!r})"
    expected = (
        "expected keys and their values"
        if fault["type"] == "model_type"
        else fault["msg"].removeprefix("Value error, ")
    )
    return f"{field + ': ' if field else ''}{expected}{got}"
