"""Makes garments as shells of cloth: tops, dresses, saris, and trousers under all of them.

All functions draw from the same random generator, so the order of the draws is part of the result. Lengths in m; points
p [N, 3] are canonical, as in synthetic.anatomy; signed distances are positive inside, as in synthetic.cloth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from stereotalker.synthetic.accessories import METALS
from stereotalker.synthetic.anatomy import bump, noise, ramp
from stereotalker.synthetic.cloth import DYES, Fabric, Shell, SignedDistance
from stereotalker.synthetic.population import Person


@dataclass(frozen=True)
class GarmentParams:
    """What the function of a garment starts from."""

    kind: str  # a value of population.OUTFITS
    colour: np.ndarray  # f64 [3] sRGB
    second: np.ndarray  # f64 [3] sRGB
    rng: np.random.Generator

    def fabric(self, **changes) -> Fabric:
        """A fabric of these colors with some of its fields changed."""
        return replace(Fabric(self.colour, self.second), **changes)


def garments(person: Person, rng: np.random.Generator) -> list[Shell]:
    """Shells from the innermost to the outermost; every outfit covers trunk and legs."""
    colour = DYES[rng.integers(len(DYES))] * rng.uniform(0.85, 1.06)
    second = DYES[rng.integers(len(DYES))]
    trousers = Shell(
        lambda p: np.minimum(0.16 - p[:, 1], 0.22 - np.abs(p[:, 0])),
        Fabric(DYES[rng.choice([1, 2, 12, 13])] * 0.8, second, weave="twill"),
        lift=0.003,
        looseness=0.2,
        seams=(),
    )
    return [trousers, *_GARMENTS[person.outfit](GarmentParams(person.outfit, colour, second, rng))]


# ---- edges -----------------------------------------------------------------------------------------------------------


def _neck(p: np.ndarray, height: float) -> np.ndarray:
    """Signed distance from a neckline at a height (m), positive below it. The neckline drops to the front."""
    return 0.9 * (height - 0.45 * (p[:, 2] - 0.02) - p[:, 1])


def _below(p: np.ndarray, height: float) -> np.ndarray:
    """As `_neck`, but measured from the neck over the shoulders, for collars and hoods, which lie around the neck."""
    flat = _neck(p, height)
    return np.where(flat > -0.006, np.maximum(flat, 0.8 * (np.hypot(p[:, 0], p[:, 2] - 0.02) - 0.068)), flat)


def _top(neckline: float, sleeve: float, hem: float = 0.10, v: float = 0.0, wide: float = 0.0) -> SignedDistance:
    """The area of a closed top.

    neckline and hem are heights; sleeve is the |x| at which sleeves end; v is the depth of a V at the front; wide is
    how far the neckline reaches towards the shoulders.
    """

    def distance(p: np.ndarray) -> np.ndarray:
        ax = np.abs(p[:, 0])
        collar = _neck(p, neckline)
        if v:
            collar = collar - np.where(p[:, 2] > 0.0, v * np.clip(1 - ax / 0.075, 0, 1), 0) * 0.85
        if wide:
            boat = np.hypot(ax / (1 + 3 * wide), (p[:, 1] - 0.735) * 1.1) - 0.045 - 0.35 * wide
            collar = np.minimum(collar, 0.9 * boat + 0.25 * np.clip(-p[:, 2], 0, 1))
        return np.minimum(np.minimum(collar, sleeve - ax), p[:, 1] - hem)

    return distance


def _band(distance: SignedDistance, low: float, high: float, limit: SignedDistance | None = None) -> SignedDistance:
    """The strip of a garment between two distances from its edge, within `limit` if there is one."""

    def strip(p: np.ndarray) -> np.ndarray:
        d = distance(p)
        inside = np.minimum(d - low, high - d)
        return inside if limit is None else np.minimum(inside, limit(p))

    return strip


def _near_neck(p: np.ndarray) -> np.ndarray:
    """Positive near the neck, which selects the neckline of a top's edges."""
    return 0.2 - np.abs(p[:, 0])


def _near_wrist(p: np.ndarray) -> np.ndarray:
    """Positive near the wrists, which selects the sleeves' ends of a top's edges."""
    return np.abs(p[:, 0]) - 0.6


def _collar(p: np.ndarray, height: float, spread: float, reach: float) -> np.ndarray:
    """The visible part of a shirt's collar: it lies over the neckline and has two points at the front."""
    ax, f = np.abs(p[:, 0]), _below(p, height)
    points = reach * bump(ax - 0.046, 0.020) * ramp(p[:, 2], 0.03, 0.07)
    return np.minimum(
        np.minimum(f + 0.020, 0.022 + points - f), np.where(p[:, 2] > 0.02, ax - spread - 0.35 * np.clip(f, 0, 1), 1.0)
    )


# ---- garments --------------------------------------------------------------------------------------------------------

# Probabilities of the patterns plain, stripes, melange, dots and flowers.
_PATTERNS: dict[str, list[float]] = {
    "tee": [0.5, 0.22, 0.28, 0, 0],
    "dress": [0.3, 0.1, 0, 0.2, 0.4],
    "blouse": [0.5, 0.1, 0, 0.2, 0.2],
}


def _light_top(params: GarmentParams) -> list[Shell]:
    """A tee, a blouse or a dress."""
    rng, is_tee = params.rng, params.kind == "tee"
    pattern = str(rng.choice(["plain", "stripes", "melange", "dots", "flowers"], p=_PATTERNS[params.kind]))
    is_short = is_tee or rng.random() < 0.45
    sleeve = rng.uniform(0.32, 0.37) if is_short else rng.uniform(0.66, 0.695)
    v, wide = (rng.choice([0.0, 0.07]), 0.0) if is_tee else [(0.09, 0.0), (0.0, 0.10), (0.0, 0.0)][rng.integers(3)]
    top = _top(
        rng.uniform(0.722, 0.735) if not v else 0.735,
        sleeve,
        hem=-1.0 if params.kind == "dress" else 0.08,
        v=v,
        wide=wide,
    )
    ease = 0.009 if is_tee else rng.uniform(0.004, 0.010)
    cloth = params.fabric(
        pattern=pattern, scale=rng.uniform(0.8, 1.5), gloss=0.10 if is_tee else 0.22, roughness=0.7 if is_tee else 0.55
    )
    main = Shell(
        top, cloth, 0.0035, looseness=rng.uniform(0.2, 0.55) if params.kind != "dress" else 0.15, sleeve_ease=ease
    )
    if not is_tee:
        return [main]
    return [
        main,
        replace(
            main,
            distance=_band(top, -0.001, 0.017, _near_neck),
            fabric=params.fabric(weave="rib", folds=0.0),
            lift=0.0055,
            seams=(),
        ),
    ]


def _shirt(params: GarmentParams) -> list[Shell]:
    """A shirt whose collar may be open."""
    rng = params.rng
    cloth = params.fabric(
        pattern=str(rng.choice(["plain", "plain", "check", "stripes"])),
        scale=rng.uniform(0.5, 1.0),
        gloss=0.14,
        roughness=0.62,
    )
    return shirt(cloth, open_collar=rng.random() < 0.6, looseness=rng.uniform(0.25, 0.5))


def shirt(fabric: Fabric, open_collar: bool, looseness: float, sleeve: float = 0.70) -> list[Shell]:
    """The main part of a shirt, its placket with buttons, its cuffs and its collar, in this order."""
    height, v = 0.738, 0.075 if open_collar else 0.012
    top = _top(height, sleeve, v=v)

    def buttons(p: np.ndarray) -> np.ndarray:
        round_ = ramp(np.hypot(p[:, 0], (p[:, 1] + 0.045) % 0.09 - 0.045), 0.0052, 0.0042)
        return round_ * (p[:, 2] > 0.03) * (p[:, 1] < 0.69 - v)

    main = Shell(top, fabric, 0.0035, looseness=looseness, sleeve_ease=0.007, seams=(0.012,))

    def strip(p):
        return np.minimum(np.minimum(0.016 - np.abs(p[:, 0]), top(p) + 0.001), p[:, 2] - 0.02)

    placket = replace(
        main, distance=strip, fabric=replace(fabric, folds=0.3), lift=0.0050, seams=(0.003,), buttons=buttons
    )
    cuffs = replace(
        main,
        distance=_band(top, -0.001, 0.05, _near_wrist),
        fabric=replace(fabric, folds=0.2),
        lift=0.0062,
        seams=(0.004,),
    )
    spread = 0.020 if open_collar else 0.004
    collar = replace(
        main,
        distance=lambda p: _collar(p, height, spread, 0.026),
        fabric=replace(fabric, folds=0.1),
        lift=0.0100,
        thickness=0.004,
        seams=(0.005,),
        relief=lambda p: 0.004 * ramp(_neck(p, height), 0.0, -0.02),
    )
    return [main, placket, cuffs, collar]


def _sweater(params: GarmentParams) -> list[Shell]:
    """A sweater with ribbed edges: crew neck, turtleneck, or a V over a shirt."""
    rng = params.rng
    style = str(rng.choice(["crew", "turtle", "v"]))
    wool = params.fabric(
        weave=str(rng.choice(["knit", "rib", "knit"])),
        pattern=str(rng.choice(["plain", "melange", "stripes"], p=[0.5, 0.35, 0.15])),
        gloss=0.04,
        roughness=0.9,
        scale=1.6,
    )
    top = _top(0.737 if style != "turtle" else 0.745, 0.70, v=0.085 if style == "v" else 0.0)
    main = Shell(top, wool, 0.0075, thickness=0.005, looseness=rng.uniform(0.3, 0.6), sleeve_ease=0.007, seams=())
    ribs = replace(wool, weave="rib", pattern="plain", folds=0.0)
    if style == "turtle":

        def roll(p):
            return np.minimum(_neck(p, 0.790) + 0.2 * np.clip(p[:, 2] - 0.05, 0, 1), 0.010 - _below(p, 0.745))

        edge = replace(
            main, distance=roll, fabric=ribs, lift=0.0095, relief=lambda p: 0.003 * ramp(_neck(p, 0.757), -0.006, 0.004)
        )
    else:
        edge = replace(main, distance=_band(top, -0.001, 0.022, _near_neck), fabric=ribs, lift=0.0095)
    cuffs = replace(main, distance=_band(top, -0.001, 0.045, _near_wrist), fabric=ribs, lift=0.0085)
    under = shirt(Fabric(DYES[0], params.second), open_collar=True, looseness=0.3) if style == "v" else []
    return [*under, main, edge, cuffs]


def _hoodie(params: GarmentParams) -> list[Shell]:
    """A sweatshirt with a pocket and a hood that lies on the back."""
    cotton = params.fabric(pattern=str(params.rng.choice(["plain", "melange"])), gloss=0.05, roughness=0.88)
    top = _top(0.737, 0.70, v=0.03)
    main = Shell(top, cotton, 0.008, thickness=0.006, looseness=0.6, sleeve_ease=0.007, seams=(0.02,))

    def pouch(p: np.ndarray) -> np.ndarray:
        across = np.minimum(0.105 - np.abs(p[:, 0]) - 0.35 * np.clip(p[:, 1] - 0.24, 0, 1), 0.31 - p[:, 1])
        return np.minimum(across, np.minimum(p[:, 1] - 0.16, p[:, 2] - 0.03))

    def hood(p: np.ndarray) -> np.ndarray:
        f = _below(p, 0.737)
        wide = 0.060 - 0.022 * ramp(p[:, 2], 0.02, 0.08)
        return np.minimum(
            np.minimum(f + 0.022, wide - f),
            np.where(p[:, 2] > 0.03, np.abs(p[:, 0]) - 0.014 - 0.25 * np.clip(f, 0, 1), 0.2),
        )

    def bulk(p: np.ndarray) -> np.ndarray:
        return 0.020 * ramp(hood(p), 0.0, 0.022) * (0.45 + 0.9 * ramp(p[:, 2], 0.05, -0.03)) + 0.002 * noise(p, 60, 5)

    pocket = replace(main, distance=pouch, lift=0.013, thickness=0.004, seams=(0.006,))
    hood_behind = replace(
        main, distance=hood, fabric=replace(cotton, folds=1.6), lift=0.013, thickness=0.010, seams=(), relief=bulk
    )
    cuffs = replace(
        main, distance=_band(top, -0.001, 0.05, _near_wrist), fabric=replace(cotton, weave="rib", folds=0.0), lift=0.009
    )
    return [main, pocket, hood_behind, cuffs]


def _blazer(params: GarmentParams) -> list[Shell]:
    """A blazer whose lapels have notches, over a shirt or a tee."""
    rng, second = params.rng, params.second
    wool = Fabric(
        DYES[rng.choice([1, 2, 3, 6, 12, 13, 4])] * rng.uniform(0.8, 1.0),
        second,
        weave="twill",
        pattern=str(rng.choice(["plain", "melange", "check"], p=[0.6, 0.25, 0.15])),
        gloss=0.06,
        roughness=0.82,
        folds=0.7,
    )
    if wool.pattern == "check":
        wool = replace(wool, second=wool.colour * 0.72, scale=0.6)
    inner = Fabric(DYES[rng.choice([0, 8, 11, 15, 1])], second, gloss=0.14, roughness=0.6)
    if rng.random() < 0.55:
        under = shirt(inner, open_collar=rng.random() < 0.5, looseness=0.15)[:2] + shirt(inner, True, 0.15)[3:]
    else:
        under = [Shell(_top(0.728, 0.30, v=0.0 if rng.random() < 0.5 else 0.07), inner, 0.003, looseness=0.15)]
    button = rng.uniform(0.36, 0.42)  # height of the upper button

    def opening(p: np.ndarray) -> np.ndarray:
        """Distance from the jacket's front edge, positive on the jacket."""
        w = 0.080 * np.clip((p[:, 1] - button) / (0.70 - button), 0, 1.25) ** 0.85
        return np.where(p[:, 2] > -0.005, np.abs(p[:, 0]) - w + 0.006 * (p[:, 1] < button), 0.2)

    def jacket(p: np.ndarray) -> np.ndarray:
        return np.minimum(np.minimum(_neck(p, 0.742), opening(p)), np.minimum(0.685 - np.abs(p[:, 0]), p[:, 1] - 0.02))

    def lapel(p: np.ndarray) -> np.ndarray:
        d = opening(p)
        wide = 0.014 + 0.052 * np.clip((p[:, 1] - button) / (0.645 - button), 0, 1)
        notch = np.abs(p[:, 1] - 0.632 + 0.35 * d) - 0.35 * np.clip(d - 0.026, 0, 1)
        shape = np.minimum(np.minimum(d + 0.002, wide - d), p[:, 1] - button - 0.004)
        front = np.minimum(np.minimum(shape, notch), _neck(p, 0.742) + 0.010)
        collar = np.minimum(_neck(p, 0.742) + 0.012, 0.034 - _below(p, 0.742))
        return np.maximum(np.where(p[:, 2] > -0.005, front, -0.05), np.where(p[:, 2] < 0.03, collar, -0.05))

    def buttons(p: np.ndarray) -> np.ndarray:
        return sum(
            ramp(np.hypot(p[:, 0] - 0.010, p[:, 1] - height), 0.0095, 0.0080)
            for height in (button - 0.018, button - 0.12)
        ) * (p[:, 2] > 0)

    main = Shell(
        jacket, wool, 0.010, thickness=0.005, looseness=0.45, sleeve_ease=0.007, seams=(0.004,), buttons=buttons
    )
    return [
        *under,
        main,
        replace(
            main,
            distance=lapel,
            fabric=replace(wool, folds=0.0),
            lift=0.0145,
            thickness=0.004,
            seams=(0.003,),
            buttons=None,
        ),
    ]


def _sari(params: GarmentParams) -> list[Shell]:
    """A pleated drape with a border over a short blouse that reaches the hips."""
    rng, colour, second = params.rng, params.colour, params.second
    silk = Fabric(colour, METALS[0] * 0.9, gloss=0.35, roughness=0.45, weave="satin")
    blouse = Shell(
        _top(0.735, rng.uniform(0.29, 0.34), wide=0.06),
        replace(silk, colour=second),
        0.003,
        looseness=0.1,
        sleeve_ease=0.004,
    )

    def cloth_area(p: np.ndarray) -> np.ndarray:
        x, y, z = p.T
        along = (x - 0.115) * -0.66 + (y - 0.70) * -0.75
        across = (x - 0.115) * -0.75 + (y - 0.70) * 0.66
        front = 0.055 + 0.30 * np.clip(along, 0, 0.5) - np.abs(across + 0.18 * np.clip(along, 0, 1))
        back = 0.060 - np.abs(x - 0.105 - 0.05 * (0.70 - y))
        return np.minimum(
            np.maximum(np.where(z > 0.01, front, back), 0.33 + 0.25 * np.clip(-x, -0.1, 0.2) - y), 0.205 - np.abs(x)
        )

    def pleats(p: np.ndarray) -> np.ndarray:
        return 0.0022 * np.sin(((p[:, 0] - 0.1) * -0.75 + p[:, 1] * 0.66) * 260) * (p[:, 1] > 0.30)

    main = Shell(cloth_area, silk, 0.008, looseness=0.45, sleeve_ease=0.004, seams=(), relief=pleats)
    gold = replace(silk, colour=silk.second, pattern="dots", second=colour, scale=0.5, folds=0.4)
    return [blouse, main, replace(main, distance=_band(cloth_area, 0.0, 0.022), fabric=gold, lift=0.0092)]


_GARMENTS: dict[str, Callable[[GarmentParams], list[Shell]]] = {
    "tee": _light_top,
    "blouse": _light_top,
    "dress": _light_top,
    "shirt": _shirt,
    "sweater": _sweater,
    "hoodie": _hoodie,
    "blazer": _blazer,
    "sari": _sari,
}
