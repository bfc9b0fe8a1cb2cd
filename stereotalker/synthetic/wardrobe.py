"""Dresses a person: garments over the skin, headwear and ornaments, and how deep the skin lies under them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stereotalker.synthetic.accessories import glasses, headwear, jewellery
from stereotalker.synthetic.anatomy import Anatomy, ramp
from stereotalker.synthetic.cloth import PaintedMesh, SignedDistance, fit_surface, shell_pieces
from stereotalker.synthetic.garments import garments
from stereotalker.synthetic.population import Person


@dataclass(frozen=True)
class Outfit:
    """Everything that a person wears. V vertices of the body."""

    pieces: list[PaintedMesh]
    covered: np.ndarray  # f64 [V], depth (m) under the outermost cloth, positive inside
    surface: np.ndarray  # f64 [V, 3] m, offset of the outermost cloth from the skin, zero where the skin is bare
    headwear: SignedDistance | None  # positive where headwear lies, so no hair grows there; None without headwear


def dress(person: Person, anatomy: Anatomy, rest: np.ndarray) -> Outfit:
    """Make everything that the person wears. rest f64 [V, 3] m is the skin in its rest pose."""
    rng = np.random.default_rng([person.seed, 41])
    body, V = anatomy.body, len(rest)
    template = body.template.astype(np.float64)
    shells = garments(person, rng)
    head_shells, headwear_area, make_ornaments = headwear(person, rng)
    covered, surface, pieces = np.full(V, -1.0), np.zeros((V, 3)), []
    fitted: dict[tuple, np.ndarray] = {}  # surfaces by the parameters they depend on
    no_gloves = np.where(anatomy.hand > 0.35, -1.0, 1.0)
    for shell in [*shells, *head_shells]:
        key = (shell.fit, shell.looseness, shell.sleeve_ease)
        if key not in fitted:
            fitted[key] = fit_surface(shell, anatomy, rest, surface)
        distance = np.where(anatomy.skin, np.minimum(shell.distance(template), no_gloves), -1.0)
        pieces += shell_pieces(shell, distance, fitted[key], anatomy, rest)
        lift = fitted[key] - rest + anatomy.normals(fitted[key]) * shell.lift
        edge = ramp(distance, -0.012, 0.004)[:, None]
        is_outermost = np.linalg.norm(lift, axis=1) * edge[:, 0] > np.linalg.norm(surface, axis=1)
        surface = np.where(is_outermost[:, None], lift * edge, surface)
        covered = np.maximum(covered, distance)
    pieces += (
        make_ornaments(anatomy, rest) + jewellery(person, anatomy, rest, rng) + glasses(person, anatomy, rest, rng)
    )
    return Outfit(pieces, covered, surface, headwear_area)
