"""Checked records that users write: unknown keys, NaN and infinity are refused, and the refusal is explained."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
