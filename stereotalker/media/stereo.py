"""The stereoscopic layout of a clip: how the two eyes share one video."""

from __future__ import annotations

from typing import Literal

from pydantic import AliasChoices, Field

from stereotalker.validation import StrictModel


class Stereo(StrictModel):
    """Two cameras side by side, one for each eye.

    Width and height of the clip are those of one eye; the video is twice as wide or twice as high.
    """

    layout: Literal["side-by-side", "over-under"] = Field(
        "side-by-side", description="where the two eyes lie in the picture; the left eye comes first"
    )
    ipd_mm: float = Field(
        63.0,
        gt=0,
        le=100,
        validation_alias=AliasChoices("ipd_mm", "pupils"),
        description="inter-pupillary distance in mm; the speaker stands in the plane of the screen "
        "(older name: pupils)",
    )
