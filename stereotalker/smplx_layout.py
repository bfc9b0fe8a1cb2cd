"""Names and slices of the SMPL-X pose vector, of the 52 ARKit facial actions, and of the regions of a picture.

Index a pose by these names only, such as `JOINT["jaw"]`, `BODY` or `LEFT_HAND`, and never by a bare number.
The order of joints is that of SMPL-X (Pavlakos et al. 2019). The order of actions is that of Apple ARKit, as Live Link
Face writes it.
"""

from __future__ import annotations

SIDES = ("left", "right")
_FINGERS = ("index", "middle", "pinky", "ring", "thumb")

JOINTS: tuple[str, ...] = (
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle", "right_ankle",
    "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head", "left_shoulder",
    "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "jaw", "left_eye", "right_eye",
    *(f"{side}_{finger}{k}" for side in SIDES for finger in _FINGERS for k in (1, 2, 3)),
)  # fmt: skip
JOINT: dict[str, int] = {name: i for i, name in enumerate(JOINTS)}

# Index of each joint's parent; -1 for the root.
PARENTS: tuple[int, ...] = (
    -1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 15, 15, 15,
    *(
        parent
        for wrist, first in ((20, 25), (21, 40))
        for f in range(5)
        for parent in (wrist, first + 3 * f, first + 3 * f + 1)
    ),
)  # fmt: skip

# Slices over the joint axis: the parts of a pose that the smplx package takes as separate arguments.
GLOBAL_ORIENT = slice(0, 1)
BODY = slice(1, 22)
JAW = slice(22, 23)
LEFT_EYE = slice(23, 24)
RIGHT_EYE = slice(24, 25)
LEFT_HAND = slice(25, 40)
RIGHT_HAND = slice(40, 55)
# Side -> rows of the joints of its fingers.
FINGERS = {"left": range(25, 40), "right": range(40, 55)}

# ARKit's facial actions; each has a value in 0..1.
ACTIONS: tuple[str, ...] = (
    "eyeBlinkLeft", "eyeLookDownLeft", "eyeLookInLeft", "eyeLookOutLeft", "eyeLookUpLeft", "eyeSquintLeft",
    "eyeWideLeft", "eyeBlinkRight", "eyeLookDownRight", "eyeLookInRight", "eyeLookOutRight", "eyeLookUpRight",
    "eyeSquintRight", "eyeWideRight", "jawForward", "jawLeft", "jawRight", "jawOpen", "mouthClose", "mouthFunnel",
    "mouthPucker", "mouthLeft", "mouthRight", "mouthSmileLeft", "mouthSmileRight", "mouthFrownLeft", "mouthFrownRight",
    "mouthDimpleLeft", "mouthDimpleRight", "mouthStretchLeft", "mouthStretchRight", "mouthRollLower", "mouthRollUpper",
    "mouthShrugLower", "mouthShrugUpper", "mouthPressLeft", "mouthPressRight", "mouthLowerDownLeft",
    "mouthLowerDownRight", "mouthUpperUpLeft", "mouthUpperUpRight", "browDownLeft", "browDownRight", "browInnerUp",
    "browOuterUpLeft", "browOuterUpRight", "cheekPuff", "cheekSquintLeft", "cheekSquintRight", "noseSneerLeft",
    "noseSneerRight", "tongueOut",
)  # fmt: skip
ACTION: dict[str, int] = {name: i for i, name in enumerate(ACTIONS)}

# Labels of a segmented picture; a label is an index into this tuple.
REGIONS: tuple[str, ...] = ("background", "hair", "face", "mouth", "torso", "arms", "hands", "legs")
REGION: dict[str, int] = {name: i for i, name in enumerate(REGIONS)}
# sRGB color of each region in label pictures, so that a viewer tells them apart.
REGION_COLORS: tuple[tuple[int, int, int], ...] = (
    (0, 0, 0),
    (90, 60, 40),
    (240, 200, 170),
    (200, 40, 60),
    (60, 100, 180),
    (90, 160, 90),
    (240, 160, 60),
    (90, 90, 110),
)

assert len(REGION_COLORS) == len(REGIONS)
assert len(JOINTS) == len(PARENTS) == 55 and len(ACTIONS) == 52
