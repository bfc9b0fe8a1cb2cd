"""Camera paths as users write them in a manifest: a fixed camera, an orbit, or key frames."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import AliasChoices, Field, model_validator

from stereotalker.validation import StrictModel

# Largest angles to either side that the renderer supports, degrees.
MAX_AZIMUTH_DEG, MAX_ELEVATION_DEG = 45.0, 20.0


class CameraView(StrictModel):
    """Where a camera is and what it frames. Angles that the renderer does not support are an error."""

    azimuth: float = Field(
        0.0,
        ge=-MAX_AZIMUTH_DEG,
        le=MAX_AZIMUTH_DEG,
        description="degrees around the speaker, positive towards their left hand",
    )
    elevation: float = Field(0.0, ge=-MAX_ELEVATION_DEG, le=MAX_ELEVATION_DEG, description="degrees, positive upwards")
    distance: float = Field(1.0, ge=0.5, le=2.0, description="dolly: in portrait distances")
    zoom: float = Field(1.0, ge=0.5, le=2.0, description="focal length over the portrait's")
    vertical_shift: float = Field(
        0.0,
        ge=-0.5,
        le=0.5,
        validation_alias=AliasChoices("vertical_shift", "rise"),
        description="how much higher the frame lies, in picture heights; the camera does not move (older name: rise)",
    )


class CameraKeyFrame(CameraView):
    """A view of the camera at a moment of the clip."""

    time: float = Field(ge=0, le=86_400, description="s from the clip's start")


# The fields that each kind of path reads, besides `kind` and `points`.
_FIELDS_OF_KIND = {
    "fixed": (*CameraView.model_fields,),
    "orbit": (*CameraView.model_fields, "swing", "period"),
    "keyframes": (),
}
# What the error message adds if a path has fields that its kind does not read.
_HINT = {"fixed": "kind: orbit does", "keyframes": "each of its points has its own"}


class CameraPath(CameraView):
    """How the camera moves during a clip.

    fixed: it stays. orbit: its azimuth swings by `swing` degrees to both sides of `azimuth`, once in `period` s.
    keyframes: it moves through `points`.
    """

    kind: Literal["fixed", "orbit", "keyframes"] = Field(
        "fixed", description="fixed: one place; orbit: swings to and fro; keyframes: goes through `points`"
    )
    swing: float = Field(
        15.0, ge=-MAX_AZIMUTH_DEG, le=MAX_AZIMUTH_DEG, description="of an orbit: degrees to either side of `azimuth`"
    )
    period: float = Field(8.0, gt=0.5, le=86_400, description="of an orbit: s of one swing there and back")
    points: tuple[CameraKeyFrame, ...] = Field((), description="of key frames: where the camera is, and when")

    @model_validator(mode="after")
    def _agree(self):
        if (self.kind == "keyframes") != bool(self.points):
            raise ValueError("camera points and kind keyframes go together: give both or neither")
        if unread := sorted(self.model_fields_set - {"kind", "points", *_FIELDS_OF_KIND[self.kind]}):
            raise ValueError(f"camera of kind {self.kind} does not read {', '.join(unread)}; {_HINT[self.kind]}")
        times = [key.time for key in self.points]
        if any(b <= a for a, b in pairwise(times)):
            raise ValueError("camera points must have rising times")
        if self.kind == "orbit" and abs(self.azimuth) + abs(self.swing) > MAX_AZIMUTH_DEG:
            raise ValueError(
                f"camera orbit reaches {abs(self.azimuth) + abs(self.swing):g} degrees; at most {MAX_AZIMUTH_DEG:g}"
            )
        return self
