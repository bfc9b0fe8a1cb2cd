"""Differentiable linear blend skinning in torch, of a whole body or of some of its vertices.

It follows the equations of SMPL (Loper et al. 2015) and SMPL-X (Pavlakos et al. 2019).
T frames, V vertices, B shape coefficients, J = 55 joints, E facial actions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from stereotalker.body.free_body import EXPRESSION_COLUMNS, SHAPE_COLUMNS
from stereotalker.geometry.rotations import axis_angle_to_matrix
from stereotalker.smplx_layout import JOINTS


@dataclass(frozen=True)
class SkinningResult:
    """The result of skinning."""

    vertices: torch.Tensor  # f32 [T, V, 3] m
    turn: torch.Tensor  # f32 [T, V, 3, 3], blended rotation of each vertex from the rest pose
    joints: torch.Tensor  # f32 [T, J, 3] m
    joint_rotations: torch.Tensor  # f32 [T, J, 3, 3], rotation of each joint from the rest pose


@dataclass(frozen=True)
class Skinning:
    """The blend shapes and skinning weights of a body file, as f32 tensors."""

    template: torch.Tensor  # [V, 3] m
    weights: torch.Tensor  # [V, J]
    shape: torch.Tensor  # [V, 3, SHAPE_COLUMNS]
    face: torch.Tensor  # [EXPRESSION_COLUMNS, V, 3]
    # i64 [K], the columns of posedirs that are not all zero. The free body has such columns only for the jaw.
    pose_columns: torch.Tensor
    posedirs: torch.Tensor  # [K, V, 3]
    joint_template: torch.Tensor  # [J, 3] m, `template` at the joints
    joint_shape: torch.Tensor  # [J, 3, SHAPE_COLUMNS], `shape` at the joints
    joint_face: torch.Tensor  # [EXPRESSION_COLUMNS, J, 3], `face` at the joints
    regressor: torch.Tensor  # [J, V of the whole body]
    parents: torch.Tensor  # i64 [J]

    @classmethod
    def read(cls, data: dict[str, np.ndarray]) -> Skinning:
        """Make it from the arrays of a body file."""
        template, regressor = data["v_template"].astype(np.float32), data["J_regressor"].astype(np.float32)
        shape = data["shapedirs"][:, :, :SHAPE_COLUMNS].astype(np.float32)
        face = np.ascontiguousarray(data["shapedirs"][:, :, SHAPE_COLUMNS:].astype(np.float32).transpose(2, 0, 1))
        pose_columns = np.flatnonzero(np.abs(data["posedirs"]).max((0, 1)))
        posedirs = data["posedirs"][:, :, pose_columns].astype(np.float32).transpose(2, 0, 1)
        arrays = {
            "template": template, "weights": data["weights"].astype(np.float32), "shape": shape, "face": face,
            "pose_columns": pose_columns, "posedirs": np.ascontiguousarray(posedirs),
            "joint_template": regressor @ template,
            "joint_shape": np.einsum("jv,vcb->jcb", regressor, shape, optimize=True),
            "joint_face": regressor @ face, "regressor": regressor,
            "parents": data["kintree_table"][0].astype(np.int64),
        }  # fmt: skip
        return cls(**{name: torch.from_numpy(array) for name, array in arrays.items()})

    def of(self, vertices: np.ndarray) -> Skinning:
        """The skinning of some vertices only, given by their indices i64 [V]. The joints stay the same."""
        keep = torch.from_numpy(np.asarray(vertices, np.int64))
        rows = {name: getattr(self, name)[keep] for name in ("template", "weights", "shape")}
        return replace(self, **rows, face=self.face[:, keep], posedirs=self.posedirs[:, keep])

    def clothed(self, surface: np.ndarray) -> Skinning:
        """The skinning of the clothed surface: an offset [V, 3] m of the whole body is added in the rest pose."""
        offset = torch.from_numpy(surface.astype(np.float32))
        return replace(
            self, template=self.template + offset, joint_template=self.joint_template + self.regressor @ offset
        )

    def shaped_also(self, betas: int, more: np.ndarray) -> Skinning:
        """The skinning with K more blend shapes, `more` f32 [K, V of the whole body, 3] m.

        Their coefficients follow the first `betas` shape coefficients. Call it on the whole body, that is before `of`.
        """
        extra = torch.from_numpy(more)
        shape = torch.cat([self.shape[:, :, :betas], extra.permute(1, 2, 0)], 2)
        joint_shape = torch.cat([self.joint_shape[:, :, :betas], torch.einsum("jv,kvc->jck", self.regressor, extra)], 2)
        return replace(self, shape=shape, joint_shape=joint_shape)

    def __call__(
        self, poses: torch.Tensor, expression: torch.Tensor, betas: torch.Tensor, trans: torch.Tensor
    ) -> SkinningResult:
        """Skin. poses f32 [T, J, 3] axis-angle rad, expression f32 [T, E], betas f32 [B], trans f32 [T, 3] m."""
        B, E = len(betas), min(expression.shape[1], EXPRESSION_COLUMNS)
        shaped = self.template + self.shape[:, :, :B] @ betas + torch.tensordot(expression[:, :E], self.face[:E], 1)
        joints = (
            self.joint_template
            + self.joint_shape[:, :, :B] @ betas
            + torch.tensordot(expression[:, :E], self.joint_face[:E], 1)
        )
        R = axis_angle_to_matrix(poses)
        pose_features = (R[:, 1:] - torch.eye(3)).flatten(1)
        shaped = shaped + torch.tensordot(pose_features[:, self.pose_columns], self.posedirs, 1)

        # World rotation and position of every joint, from the root outwards.
        world, positions = [R[:, 0]], [joints[:, 0]]
        for joint in range(1, len(JOINTS)):
            parent = int(self.parents[joint])
            world.append(world[parent] @ R[:, joint])
            bone = joints[:, joint] - joints[:, parent]
            positions.append(positions[parent] + (world[parent] @ bone[..., None])[..., 0])
        rotations, posed_joints = torch.stack(world, 1), torch.stack(positions, 1)
        shift = posed_joints - (rotations @ joints[..., None])[..., 0]
        blended = (self.weights @ rotations.flatten(2)).unflatten(2, (3, 3))
        vertices = (blended @ shaped[..., None])[..., 0] + self.weights @ shift + trans[:, None]
        return SkinningResult(vertices, blended, posed_joints + trans[:, None], rotations)
