"""Camera paths as users write them: a fixed camera, an orbit, or key frames."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import AliasChoices, Field, model_validator

from stereotalker.validation import StrictModel

AZIMUTH, ELEVATION = 45.0, 20.0  # degrees to either side that the renderer was made for


class CameraView(StrictModel):
    """Where a camera stands, and what of the speaker it frames. Outside of the cone that the renderer was made for it is refused."""

    azimuth: float = Field(
        0.0, ge=-AZIMUTH, le=AZIMUTH, description="degrees around the speaker, positive towards their left hand"
    )
    elevation: float = Field(0.0, ge=-ELEVATION, le=ELEVATION, description="degrees, positive upwards")
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
    """Where the camera is at a moment."""

    time: float = Field(ge=0, le=86_400, description="s")


_CAMERA_KEYS = {
    "fixed": (*CameraView.model_fields,),
    "orbit": (*CameraView.model_fields, "swing", "period"),
    "keyframes": (),
}  # beside kind and points


_CAMERA_HINT = {"fixed": "kind: orbit does", "keyframes": "each of its points has its own"}


class CameraPath(CameraView):
    """fixed: one place. orbit: swings `swing` degrees around `azimuth`, once in `period` s. keyframes: through `points`."""

    kind: Literal["fixed", "orbit", "keyframes"] = "fixed"
    swing: float = Field(15.0, ge=-AZIMUTH, le=AZIMUTH)
    period: float = Field(8.0, gt=0.5, le=86_400)
    points: tuple[CameraKeyFrame, ...] = ()

    @model_validator(mode="after")
    def _agree(self):
        if (self.kind == "keyframes") != bool(self.points):
            raise ValueError("camera points and kind keyframes go together: give both or neither")
        if given := sorted(self.model_fields_set - {"kind", "points", *_CAMERA_KEYS[self.kind]}):
            raise ValueError(f"camera of kind {self.kind} does not read {', '.join(given)}; {_CAMERA_HINT[self.kind]}")
        times = [key.time for key in self.points]
        if any(b <= a for a, b in pairwise(times)):
            raise ValueError("camera points must have rising times")
        if self.kind == "orbit" and abs(self.azimuth) + abs(self.swing) > AZIMUTH:
            raise ValueError(
                f"camera orbit reaches {abs(self.azimuth) + abs(self.swing):g} degrees; at most {AZIMUTH:g}"
            )
        return self
