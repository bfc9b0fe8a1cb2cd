"""Writes a Motion for other programs.

Formats: npz as AMASS and the SMPL-X Blender add-on read it, ARKit blend shapes in CSV as Live Link Face writes them,
and BVH. T frames.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from scipy.spatial.transform import Rotation

from stereotalker.body.free_body import JAW_OPEN_ANGLE
from stereotalker.body.model import Body
from stereotalker.errors import ClipError, UserError
from stereotalker.records import Motion
from stereotalker.smplx_layout import ACTION, ACTIONS, JOINT, JOINTS, PARENTS
from stereotalker.store.files import write_atomic

# ARKit actions that change places with their mirror image in Live Link Face's column order.
_SWAPPED = {"jawLeft": "jawRight", "jawRight": "jawLeft", "mouthLeft": "mouthRight", "mouthRight": "mouthLeft"}
# Live Link Face's columns: ARKit's 52 actions, four of them in another order, then nine angles in rad.
LIVE_LINK_COLUMNS: tuple[str, ...] = (
    *(name[0].upper() + name[1:] for name in (_SWAPPED.get(action, action) for action in ACTIONS)),
    *(f"{part}{angle}" for part in ("Head", "LeftEye", "RightEye") for angle in ("Yaw", "Pitch", "Roll")),
)  # fmt: skip
_FULL_LOOK_ANGLE = 0.6  # rad: rotation of an eye that equals an eyeLook action of 1
_CM_PER_M = 100.0  # BVH files customarily hold centimeters


def npz_bytes(motion: Motion, body: Body) -> bytes:
    """An npz file with AMASS's keys, and with the facial expression and its basis.

    Keys: poses f32 [T, 165] axis-angle rad, trans f32 [T, 3] m, betas f32 [B] (zeros), gender, surface_model_type,
    mocap_frame_rate, mocap_time_length s, expression f32 [T, 52], expression_basis.
    """
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        gender=np.array("neutral"),
        surface_model_type=np.array("smplx"),
        mocap_frame_rate=np.array(motion.fps),
        betas=np.zeros(body.betas, np.float32),
        poses=motion.poses.reshape(len(motion.poses), -1),
        trans=motion.trans,
        expression=motion.expression,
        expression_basis=np.array(motion.expression_basis),
        mocap_time_length=np.array(len(motion.poses) / motion.fps),
    )
    return buffer.getvalue()


def read_npz(path: Path) -> Motion:
    """Read a Motion from an npz file with AMASS's keys. Without the key `expression` the face is neutral.

    Raises ClipError if the file is not a motion.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            poses, trans, fps = (
                file["poses"].astype(np.float32),
                file["trans"].astype(np.float32),
                float(file["mocap_frame_rate"]),
            )
            expression = (
                file["expression"].astype(np.float32)
                if "expression" in file.files
                else np.zeros((len(poses), len(ACTIONS)), np.float32)
            )
        if not len(poses) or not all(np.isfinite(a).all() for a in (poses, trans, expression)):
            raise ValueError("it has no frame, or numbers that are not finite")
        return Motion(poses.reshape(len(poses), len(JOINTS), 3), expression, trans, fps)
    except (OSError, KeyError, ValueError, TypeError, AttributeError, BadZipFile) as error:
        raise ClipError(
            f"{path} is not a motion ({error}); expected an .npz with poses [T, 165], trans and mocap_frame_rate, "
            "as `stereotalker motion` writes"
        ) from None


def jaw_open(motion: Motion) -> np.ndarray:
    """Opening of the jaw, f32 [T] in 0..1: the rotation of the jaw joint and the action jawOpen added up."""
    return np.clip(motion.expression[:, ACTION["jawOpen"]] + motion.poses[:, JOINT["jaw"], 0] / JAW_OPEN_ANGLE, 0, 1)


def live_link_csv(motion: Motion) -> bytes:
    """A CSV file with one row per frame, as Live Link Face writes it.

    Columns: time code, the number of values (61), the 52 actions in 0..1 and nine angles in rad.
    ARKit describes jaw and eyes by actions, so the rotations of jaw and eyes are added to the actions.
    """
    actions = motion.expression.copy()
    actions[:, ACTION["jawOpen"]] = jaw_open(motion)
    rotations = [
        Rotation.from_rotvec(motion.poses[:, JOINT["neck"]]) * Rotation.from_rotvec(motion.poses[:, JOINT["head"]])
    ]
    for eye, side, outwards in (("left_eye", "Left", 1), ("right_eye", "Right", -1)):
        down = motion.poses[:, JOINT[eye], 0] / _FULL_LOOK_ANGLE
        left = motion.poses[:, JOINT[eye], 1] / _FULL_LOOK_ANGLE
        for name, value in (("Down", down), ("Up", -down), ("Out", outwards * left), ("In", -outwards * left)):
            column = ACTION[f"eyeLook{name}{side}"]
            actions[:, column] = np.maximum(actions[:, column], np.clip(value, 0, 1))
        rotations.append(Rotation.from_rotvec(motion.poses[:, JOINT[eye]]))
    order = [ACTION[_SWAPPED.get(action, action)] for action in ACTIONS]
    values = np.concatenate([actions[:, order], *(rotation.as_euler("YXZ") for rotation in rotations)], 1)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["Timecode", "BlendShapeCount", *LIVE_LINK_COLUMNS])
    for index, row in enumerate(values):
        writer.writerow([_timecode(index, motion.fps), len(LIVE_LINK_COLUMNS), *(f"{value:.6f}" for value in row)])
    return text.getvalue().encode()


def _timecode(index: int, fps: float) -> str:
    """Time code HH:MM:SS:FF.sub of a frame at `fps`."""
    seconds, fraction = divmod(index / fps, 1.0)
    minutes, second = divmod(int(seconds), 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{second:02}:{fraction * fps:06.3f}"


def bvh_bytes(motion: Motion, body: Body) -> bytes:
    """A Biovision hierarchy (BVH) of all 55 joints: offsets of the mean body in cm, rotations Z X Y in degrees."""
    positions = body.joints(np.zeros(body.betas, np.float32)) * _CM_PER_M
    lines = [
        "HIERARCHY",
        *_hierarchy(0, positions, 0),
        "MOTION",
        f"Frames: {len(motion.poses)}",
        f"Frame Time: {1 / motion.fps:.8f}",
    ]
    order = _depth_first(0)
    angles = np.stack(
        [Rotation.from_rotvec(motion.poses[:, joint]).as_euler("ZXY", degrees=True) for joint in order], 1
    )
    rows = np.concatenate([positions[0] + motion.trans * _CM_PER_M, angles.reshape(len(angles), -1)], 1)
    lines += [" ".join(f"{value:.5f}" for value in row) for row in rows]
    return ("\n".join(lines) + "\n").encode()


def _children(joint: int) -> list[int]:
    return [k for k, parent in enumerate(PARENTS) if parent == joint]


def _depth_first(joint: int) -> list[int]:
    return [joint] + [k for child in _children(joint) for k in _depth_first(child)]


def _hierarchy(joint: int, positions: np.ndarray, depth: int) -> list[str]:
    """Lines of a joint and of all joints below it. A joint without children gets an end site 2 cm further on."""
    pad, inner = "\t" * depth, "\t" * (depth + 1)
    offset = positions[joint] - (positions[PARENTS[joint]] if joint else 0)
    channels = "6 Xposition Yposition Zposition" if joint == 0 else "3"
    lines = [
        f"{pad}{'JOINT' if joint else 'ROOT'} {JOINTS[joint]}",
        f"{pad}{{",
        f"{inner}OFFSET {' '.join(f'{v:.5f}' for v in (offset if joint else np.zeros(3)))}",
        f"{inner}CHANNELS {channels} Zrotation Xrotation Yrotation",
    ]
    for child in _children(joint):
        lines += _hierarchy(child, positions, depth + 1)
    if not _children(joint):
        end_offset = 2.0 * offset / max(np.linalg.norm(offset), 1e-6)
        lines += [
            f"{inner}End Site",
            f"{inner}{{",
            f"{inner}\tOFFSET {' '.join(f'{v:.5f}' for v in end_offset)}",
            f"{inner}}}",
        ]
    return [*lines, f"{pad}}}"]


WRITERS: dict[str, Callable[[Motion, Body], bytes]] = {
    "npz": npz_bytes,
    "csv": lambda motion, body: live_link_csv(motion),
    "bvh": bvh_bytes,
}


def export(motion: Motion, body: Body, base: Path, formats: list[str]) -> list[Path]:
    """Write `base`.npz, .csv or .bvh, as `formats` names them, and return the paths.

    Raises UserError for a format that is not in WRITERS.
    """
    if unknown := set(formats) - set(WRITERS):
        raise UserError(f"format {', '.join(sorted(unknown))}; expected some of {', '.join(WRITERS)}")
    paths = [base.with_name(f"{base.name}.{name}") for name in formats]
    base.parent.mkdir(parents=True, exist_ok=True)
    for name, path in zip(formats, paths, strict=True):
        write_atomic(path, WRITERS[name](motion, body))
    return paths
