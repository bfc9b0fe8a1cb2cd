"""Linear blend skinning in torch, of a whole body or of some of its vertices, differentiable (Loper et al. 2015, Pavlakos et al. 2019).

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
class Skinned:
    """vertices f32 [T, V, 3] m; turn f32 [T, V, 3, 3] and joint_turn f32 [T, J, 3, 3], from the rest pose; joints f32 [T, J, 3] m."""

    vertices: torch.Tensor
    turn: torch.Tensor
    joints: torch.Tensor
    joint_turn: torch.Tensor


@dataclass(frozen=True)
class Skinning:
    """What a body file says, as tensors."""

    template: torch.Tensor  # [V, 3] m
    weights: torch.Tensor  # [V, J]
    shape: torch.Tensor  # [V, 3, SHAPE_COLUMNS]
    face: torch.Tensor  # [EXPRESSION_COLUMNS, V, 3]
    bends: torch.Tensor  # i64: the used columns of posedirs; of ours, only the jaw's
    posedirs: torch.Tensor  # [bends, V, 3]
    joint_template: torch.Tensor  # [J, 3]: where joints are, and how shape and face move them
    joint_shape: torch.Tensor  # [J, 3, SHAPE_COLUMNS]
    joint_face: torch.Tensor  # [EXPRESSION_COLUMNS, J, 3]
    regressor: torch.Tensor  # [J, V of the whole body]
    parents: torch.Tensor  # i64 [J]

    @classmethod
    def read(cls, data: dict[str, np.ndarray]) -> Skinning:
        """From the arrays of a body file."""
        template, regressor = data["v_template"].astype(np.float32), data["J_regressor"].astype(np.float32)
        shape = data["shapedirs"][:, :, :SHAPE_COLUMNS].astype(np.float32)
        face = np.ascontiguousarray(data["shapedirs"][:, :, SHAPE_COLUMNS:].astype(np.float32).transpose(2, 0, 1))
        bends = np.flatnonzero(np.abs(data["posedirs"]).max((0, 1)))
        arrays = {
            "template": template, "weights": data["weights"].astype(np.float32), "shape": shape, "face": face, "bends": bends,
            "posedirs": np.ascontiguousarray(data["posedirs"][:, :, bends].astype(np.float32).transpose(2, 0, 1)),
            "joint_template": regressor @ template, "joint_shape": np.einsum("jv,vcb->jcb", regressor, shape, optimize=True),
            "joint_face": regressor @ face, "regressor": regressor, "parents": data["kintree_table"][0].astype(np.int64),
        }  # fmt: skip
        return cls(**{name: torch.from_numpy(array) for name, array in arrays.items()})

    def of(self, vertices: np.ndarray) -> Skinning:
        """The same for some vertices, i64 [V]; the joints stay what they are."""
        keep = torch.from_numpy(np.asarray(vertices, np.int64))
        rows = {name: getattr(self, name)[keep] for name in ("template", "weights", "shape")}
        return replace(self, **rows, face=self.face[:, keep], posedirs=self.posedirs[:, keep])

    def clothed(self, surface: np.ndarray) -> Skinning:
        """With an offset [V, 3] m added in the rest pose, to the whole body."""
        offset = torch.from_numpy(surface.astype(np.float32))
        return replace(
            self, template=self.template + offset, joint_template=self.joint_template + self.regressor @ offset
        )

    def shaped_also(self, betas: int, more: np.ndarray) -> Skinning:
        """With further shapes f32 [K, V of the whole body, 3] m, whose coefficients follow the first `betas`. Before `of`."""
        extra = torch.from_numpy(more)
        shape = torch.cat([self.shape[:, :, :betas], extra.permute(1, 2, 0)], 2)
        joint_shape = torch.cat([self.joint_shape[:, :, :betas], torch.einsum("jv,kvc->jck", self.regressor, extra)], 2)
        return replace(self, shape=shape, joint_shape=joint_shape)

    def __call__(
        self, poses: torch.Tensor, expression: torch.Tensor, betas: torch.Tensor, trans: torch.Tensor
    ) -> Skinned:
        """poses [T, J, 3] rad, expression [T, E], betas [B], trans [T, 3] m."""
        B, E = len(betas), min(expression.shape[1], EXPRESSION_COLUMNS)
        shaped = self.template + self.shape[:, :, :B] @ betas + torch.tensordot(expression[:, :E], self.face[:E], 1)
        joints = (
            self.joint_template
            + self.joint_shape[:, :, :B] @ betas
            + torch.tensordot(expression[:, :E], self.joint_face[:E], 1)
        )
        R = axis_angle_to_matrix(poses)
        bend = (R[:, 1:] - torch.eye(3)).flatten(1)
        shaped = shaped + torch.tensordot(bend[:, self.bends], self.posedirs, 1)

        world, place = [R[:, 0]], [joints[:, 0]]
        for joint in range(1, len(JOINTS)):
            parent = int(self.parents[joint])
            world.append(world[parent] @ R[:, joint])
            place.append(place[parent] + (world[parent] @ (joints[:, joint] - joints[:, parent])[..., None])[..., 0])
        turn, at = torch.stack(world, 1), torch.stack(place, 1)
        shift = at - (turn @ joints[..., None])[..., 0]
        blended = (self.weights @ turn.flatten(2)).unflatten(2, (3, 3))
        vertices = (blended @ shaped[..., None])[..., 0] + self.weights @ shift + trans[:, None]
        return Skinned(vertices, blended, at + trans[:, None], turn)
