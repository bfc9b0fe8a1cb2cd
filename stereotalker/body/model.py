"""The body model: SMPL-X parameters in, vertices out. Two readers of the same file, which agree to 1e-5 m.

The reader "smplx" is the reference; the code of the smplx package is licensed for non-commercial research. The reader
"native" is our own linear blend skinning by the published equations (Loper et al. 2015, Pavlakos et al. 2019), for
commercial use. T frames, V vertices, F triangles, B shape coefficients.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from stereotalker import smplx_layout as layout
from stereotalker.body.skinning import Skinning, SkinningResult
from stereotalker.errors import UserError
from stereotalker.geometry.rotations import axis_angle_to_matrix
from stereotalker.params import BodyParams, resolve
from stereotalker.records import Motion

BodyReader = Literal["smplx", "native"]


@dataclass(frozen=True)
class PosedBody:
    """The body in every frame of a motion."""

    vertices: np.ndarray  # f32 [T, V, 3] m
    turn: np.ndarray  # f32 [T, V, 3, 3], each vertex' rotation from the rest pose; blended, so only nearly orthogonal


@dataclass(frozen=True)
class Body:
    """A body file in memory."""

    path: Path
    reader: BodyReader
    betas: int  # B
    template: np.ndarray  # f32 [V, 3] m, rest pose
    faces: np.ndarray  # i32 [F, 3]
    weights: np.ndarray  # skinning weights f32 [V, 55]
    part: np.ndarray  # u8 [V], numbers of body.free_body.PARTS
    masks: dict[str, np.ndarray]  # lips, nails, inner_mouth, lids: f32 [V] in 0..1
    texture_coordinates: np.ndarray  # texture coordinates f32 [N, 2] in 0..1, y up
    texture_faces: np.ndarray  # i32 [F, 3], indices into texture_coordinates of the triangles' corners
    lip_pair: np.ndarray  # i64 [2], the vertices of the upper and the lower lip that meet at the midline

    @property
    def skinning(self) -> Skinning:
        """The reader "native", which is differentiable in torch."""
        return _skinning(self.path)

    def rest(self, betas: np.ndarray) -> np.ndarray:
        """Vertices of a shape in the rest pose. betas f32 [B] -> f32 [V, 3] m."""
        return self.template + _file(self.path)["shapedirs"][:, :, : self.betas].astype(np.float32) @ betas

    def joints(self, betas: np.ndarray) -> np.ndarray:
        """Positions of the joints of a shape in the rest pose. betas f32 [B] -> f32 [55, 3] m."""
        return _file(self.path)["J_regressor"].astype(np.float32) @ self.rest(betas)

    def rest_joints(self, betas: np.ndarray, surface: np.ndarray | None = None) -> np.ndarray:
        """Positions of a clothed shape's joints when all rotations are 0, f32 [55, 3] m. Arguments as of `pose`."""
        zero = Motion.still(np.zeros((len(layout.JOINTS), 3), np.float32), np.zeros(52, np.float32))
        return self.posed_joints(zero, betas, surface)[0][0]

    def hand_weight(self, side: str = "") -> np.ndarray:
        """Summed skinning weight of the wrist and the finger joints, f32 [V]. side: "left", "right" or "" for both."""
        sides = (side,) if side else layout.SIDES
        hands = [row for name in sides for row in (layout.JOINT[f"{name}_wrist"], *layout.FINGERS[name])]
        return self.weights[:, hands].sum(1)

    def pose(self, motion: Motion, betas: np.ndarray, surface: np.ndarray | None = None) -> np.ndarray:
        """Vertices of every frame, by the body's reader, f32 [T, V, 3] m.

        betas f32 [B]. surface f16 [V, 3] m: offsets of the clothed surface, which are added in the rest pose.
        """
        if self.reader == "native":
            return self.posed(motion, betas, surface).vertices
        with torch.inference_mode():
            return _smplx_vertices(self, motion, betas.astype(np.float32), surface).numpy()

    def posed(self, motion: Motion, betas: np.ndarray, surface: np.ndarray | None = None) -> PosedBody:
        """Vertices and their rotations, always by the reader "native". Arguments as of `pose`.

        The rotations let other meshes, such as hair, follow the body.
        """
        with torch.inference_mode():
            skinning = self.skinning if surface is None else self.skinning.clothed(surface)
            skinned = _skin(skinning, motion, betas[: self.betas].astype(np.float32))
            return PosedBody(skinned.vertices.numpy(), skinned.turn.numpy())

    def posed_joints(
        self, motion: Motion, betas: np.ndarray, surface: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Positions f32 [T, 55, 3] m and world rotations f32 [T, 55, 3, 3] of the joints. Arguments as of `pose`."""
        with torch.inference_mode():
            skinning = self.skinning if surface is None else self.skinning.clothed(surface)
            skinned = _skin(skinning.of(np.zeros(0)), motion, betas[: self.betas].astype(np.float32))
            return skinned.joints.numpy(), skinned.joint_rotations.numpy()

    def lip_aperture(self, motion: Motion) -> np.ndarray:
        """Distance between the lips of the mean shape at the midline, minus its value at rest. f32 [T] mm."""
        upper, lower = np.moveaxis(self.lips(motion)[:, -2:], 1, 0)
        at_rest = np.linalg.norm(np.subtract(*self.template[self.lip_pair])) * 1000
        return (np.linalg.norm(upper - lower, axis=-1) - at_rest).astype(np.float32)

    def lips(self, motion: Motion) -> np.ndarray:
        """Positions of the L lip vertices of the mean shape in the frame of the head, f32 [T, L, 3] mm.

        Only the jaw and the expression move them. The last two vertices are `lip_pair`.
        """
        face_only = Motion(motion.poses * _joint_mask("jaw"), motion.expression, motion.trans * 0, motion.fps)
        lips, mean = _lip_skinning(self.path), np.zeros(0, np.float32)
        with torch.inference_mode():
            parts = [
                _skin(lips, face_only.frames(t, t + 1000), mean).vertices for t in range(0, len(motion.poses), 1000)
            ]
        return torch.cat(parts).numpy() * 1000


@lru_cache(maxsize=2)
def read_body(params: BodyParams) -> Body:
    """The body model that the parameters name. Raises UserError if it cannot be read."""
    return load_body(resolve(params.file), params.file_reader, params.betas)


def load_body(path: Path, reader: BodyReader = "smplx", betas: int = 20) -> Body:
    """Read a body file: ours, or a licensed SMPLX_NEUTRAL.npz.

    betas: B, the number of shape coefficients. Raises UserError if the file is missing.
    """
    if not Path(path).is_file():
        raise UserError(
            f"body file {path} not found; expected an SMPL-X .npz: "
            "set body.file in params.yaml, or run `dvc repro body`"
        )
    data = _file(path)
    V = len(data["v_template"])
    zeros = np.zeros(V, np.float32)
    masks = {
        n: data[n].astype(np.float32) / 255 if n in data else zeros for n in ("lips", "nails", "inner_mouth", "lids")
    }
    return Body(
        path=Path(path), reader=reader, betas=betas,
        template=data["v_template"].astype(np.float32), faces=data["f"].astype(np.int32),
        weights=data["weights"].astype(np.float32), part=data.get("part", np.zeros(V, np.uint8)), masks=masks,
        texture_coordinates=data["vt"].astype(np.float32), texture_faces=data["ft"].astype(np.int32),
        # The licensed file has no lip_pair; these are the inner lips of its mesh at the midline.
        lip_pair=data.get("lip_pair", np.array([8969, 8985])),
    )  # fmt: skip


@lru_cache(maxsize=2)
def _file(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a body file, without arrays of objects."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files if file[name].dtype != object}


def _joint_mask(joint: str) -> np.ndarray:
    """1 at one joint and 0 at all others, f32 [1, 55, 1]."""
    mask = np.zeros((1, len(layout.JOINTS), 1), np.float32)
    mask[0, layout.JOINT[joint]] = 1
    return mask


# ---- reader "smplx" --------------------------------------------------------------------------------------------------

_SMPLX_LOCK = threading.Lock()  # the layer holds the surface that it poses


@lru_cache(maxsize=2)
def _smplx_model(path: Path, betas: int):
    import smplx

    return smplx.SMPLXLayer(
        str(path), num_betas=betas, num_expression_coeffs=len(layout.ACTIONS), ext="npz", use_face_contour=False
    )  # fmt: skip


def _smplx_vertices(body: Body, motion: Motion, betas: np.ndarray, surface: np.ndarray | None) -> torch.Tensor:
    model = _smplx_model(body.path, body.betas)
    template = (
        torch.from_numpy(body.template)
        if surface is None
        else torch.from_numpy(body.template + surface.astype(np.float32))
    )
    R = axis_angle_to_matrix(torch.from_numpy(motion.poses))
    with _SMPLX_LOCK:
        model.v_template.copy_(template)
        output = model(
            betas=torch.from_numpy(betas)[None].expand(len(R), -1), expression=torch.from_numpy(motion.expression),
            global_orient=R[:, layout.GLOBAL_ORIENT], body_pose=R[:, layout.BODY], jaw_pose=R[:, layout.JAW],
            leye_pose=R[:, layout.LEFT_EYE], reye_pose=R[:, layout.RIGHT_EYE],
            left_hand_pose=R[:, layout.LEFT_HAND], right_hand_pose=R[:, layout.RIGHT_HAND],
            transl=torch.from_numpy(motion.trans),
        )  # fmt: skip
    return output.vertices


# ---- reader "native" -------------------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def _skinning(path: Path) -> Skinning:
    # Fits need gradients through these tensors, also when the first call is made in inference mode.
    with torch.inference_mode(False):
        return Skinning.read(_file(path))


@lru_cache(maxsize=2)
def _lip_skinning(path: Path) -> Skinning:
    """Skinning of the lips' vertices only; the pair at the midline comes last."""
    body = load_body(path, "native", 0)
    return _skinning(path).of(np.concatenate([np.flatnonzero(body.masks["lips"] > 0.5), body.lip_pair]))


def _skin(skinning: Skinning, motion: Motion, betas: np.ndarray) -> SkinningResult:
    return skinning(*(torch.from_numpy(a) for a in (motion.poses, motion.expression, betas, motion.trans)))
