"""What a person wears: garments over the skin, headwear, ornaments; and how deep the skin lies under them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stereotalker.synthetic.accessories import glasses, headwear, jewellery
from stereotalker.synthetic.anatomy import Anatomy, ramp
from stereotalker.synthetic.cloth import Depth, Piece, fit, shell_pieces
from stereotalker.synthetic.garments import garments
from stereotalker.synthetic.population import Person


@dataclass(frozen=True)
class Outfit:
    pieces: list[Piece]
    covered: np.ndarray  # f64 [V], depth (m) under the outermost cloth, positive inside
    surface: np.ndarray  # f64 [V, 3], offset of the outermost cloth from the skin, zero where bare
    headwear: Depth | None  # under which no hair grows out


def dress(person: Person, anatomy: Anatomy, rest: np.ndarray) -> Outfit:
    """Everything the person wears. rest f32 [V, 3]: the skin in its rest pose."""
    rng = np.random.default_rng([person.seed, 41])
    body, V = anatomy.body, len(rest)
    template = body.template.astype(np.float64)
    shells = garments(person, rng)
    head_shells, under, ornaments = headwear(person, rng)
    covered, surface, pieces = np.full(V, -1.0), np.zeros((V, 3)), []
    fitted: dict[tuple, np.ndarray] = {}
    reached = np.where(anatomy.hand > 0.35, -1.0, 1.0)
    for shell in [*shells, *head_shells]:
        key = (shell.fit, shell.hang, shell.sleeve_ease)
        if key not in fitted:
            fitted[key] = fit(shell, anatomy, rest, surface)
        depth = np.where(anatomy.skin, np.minimum(shell.depth(template), reached), -1.0)
        pieces += shell_pieces(shell, depth, fitted[key], anatomy, rest)
        lift = fitted[key] - rest + anatomy.normals(fitted[key]) * shell.lift
        edge = ramp(depth, -0.012, 0.004)[:, None]
        thicker = np.linalg.norm(lift, axis=1) * edge[:, 0] > np.linalg.norm(surface, axis=1)
        surface = np.where(thicker[:, None], lift * edge, surface)
        covered = np.maximum(covered, depth)
    pieces += ornaments(anatomy, rest) + jewellery(person, anatomy, rest, rng) + glasses(person, anatomy, rest, rng)
    return Outfit(pieces, covered, surface, under)
