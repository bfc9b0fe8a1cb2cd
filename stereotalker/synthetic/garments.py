"""Garments as shells: tee, dress, blouse, shirt, sweater, hoodie, blazer, sari, and trousers under them all.

Every function draws from the same generator in its own order; axes and places as in people.anatomy and people.cloth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from stereotalker.synthetic.accessories import METALS
from stereotalker.synthetic.anatomy import bump, noise, ramp
from stereotalker.synthetic.cloth import DYES, Depth, Fabric, Shell
from stereotalker.synthetic.population import Person


@dataclass(frozen=True)
class Draft:
    """What a tailor starts from."""

    kind: str
    colour: np.ndarray  # sRGB
    second: np.ndarray
    rng: np.random.Generator

    def fabric(self, **changes) -> Fabric:
        return replace(Fabric(self.colour, self.second), **changes)


def garments(person: Person, rng: np.random.Generator) -> list[Shell]:
    """Shells from the innermost to the outermost; every outfit covers trunk and legs."""
    colour = DYES[rng.integers(len(DYES))] * rng.uniform(0.85, 1.06)
    second = DYES[rng.integers(len(DYES))]
    trousers = Shell(
        lambda p: np.minimum(0.16 - p[:, 1], 0.22 - np.abs(p[:, 0])), Fabric(DYES[rng.choice([1, 2, 12, 13])] * 0.8, second, weave="twill"),
        lift=0.003, hang=0.2, seams=(),
    )  # fmt: skip
    return [trousers, *_TAILORS[person.outfit](Draft(person.outfit, colour, second, rng))]


# ---- edges ---------------------------------------------------------------------------------------------------------------


def _neck(p: np.ndarray, height: float) -> np.ndarray:
    """How far below a neckline that drops to the front."""
    return 0.9 * (height - 0.45 * (p[:, 2] - 0.02) - p[:, 1])


def _below(p: np.ndarray, height: float) -> np.ndarray:
    """As `_neck`, but over the shoulders by the distance from the neck, for what lies around it."""
    flat = _neck(p, height)
    return np.where(flat > -0.006, np.maximum(flat, 0.8 * (np.hypot(p[:, 0], p[:, 2] - 0.02) - 0.068)), flat)


def _top(neckline: float, sleeve: float, hem: float = 0.10, v: float = 0.0, wide: float = 0.0) -> Depth:
    """A closed top. v: depth of a V at the front; wide: how far the neckline reaches to the shoulders."""

    def depth(p: np.ndarray) -> np.ndarray:
        ax = np.abs(p[:, 0])
        collar = _neck(p, neckline)
        if v:
            collar = collar - np.where(p[:, 2] > 0.0, v * np.clip(1 - ax / 0.075, 0, 1), 0) * 0.85
        if wide:
            boat = np.hypot(ax / (1 + 3 * wide), (p[:, 1] - 0.735) * 1.1) - 0.045 - 0.35 * wide
            collar = np.minimum(collar, 0.9 * boat + 0.25 * np.clip(-p[:, 2], 0, 1))
        return np.minimum(np.minimum(collar, sleeve - ax), p[:, 1] - hem)

    return depth


def _band(depth: Depth, low: float, high: float, limit: Depth | None = None) -> Depth:
    """The strip of a garment between two depths from its edge."""

    def strip(p: np.ndarray) -> np.ndarray:
        d = depth(p)
        inside = np.minimum(d - low, high - d)
        return inside if limit is None else np.minimum(inside, limit(p))

    return strip


def _near_neck(p: np.ndarray) -> np.ndarray:
    return 0.2 - np.abs(p[:, 0])


def _near_wrist(p: np.ndarray) -> np.ndarray:
    return np.abs(p[:, 0]) - 0.6


def _collar(p: np.ndarray, height: float, spread: float, reach: float) -> np.ndarray:
    """A shirt collar's fall: over the neckline, with two points at the front."""
    ax, f = np.abs(p[:, 0]), _below(p, height)
    points = reach * bump(ax - 0.046, 0.020) * ramp(p[:, 2], 0.03, 0.07)
    return np.minimum(
        np.minimum(f + 0.020, 0.022 + points - f), np.where(p[:, 2] > 0.02, ax - spread - 0.35 * np.clip(f, 0, 1), 1.0)
    )


# ---- tailors -------------------------------------------------------------------------------------------------------------

_PATTERNS: dict[str, list[float]] = {  # plain, stripes, melange, dots, flowers
    "tee": [0.5, 0.22, 0.28, 0, 0], "dress": [0.3, 0.1, 0, 0.2, 0.4], "blouse": [0.5, 0.1, 0, 0.2, 0.2],
}  # fmt: skip


def _light_top(draft: Draft) -> list[Shell]:
    """Tee, blouse and dress."""
    rng, tee = draft.rng, draft.kind == "tee"
    pattern = str(rng.choice(["plain", "stripes", "melange", "dots", "flowers"], p=_PATTERNS[draft.kind]))
    short = tee or rng.random() < 0.45
    sleeve = rng.uniform(0.32, 0.37) if short else rng.uniform(0.66, 0.695)
    v, wide = (rng.choice([0.0, 0.07]), 0.0) if tee else [(0.09, 0.0), (0.0, 0.10), (0.0, 0.0)][rng.integers(3)]
    top = _top(
        rng.uniform(0.722, 0.735) if not v else 0.735,
        sleeve,
        hem=-1.0 if draft.kind == "dress" else 0.08,
        v=v,
        wide=wide,
    )
    ease = 0.009 if tee else rng.uniform(0.004, 0.010)
    cloth = draft.fabric(
        pattern=pattern, scale=rng.uniform(0.8, 1.5), gloss=0.10 if tee else 0.22, roughness=0.7 if tee else 0.55
    )
    main = Shell(top, cloth, 0.0035, hang=rng.uniform(0.2, 0.55) if draft.kind != "dress" else 0.15, sleeve_ease=ease)
    if not tee:
        return [main]
    return [
        main,
        replace(
            main,
            depth=_band(top, -0.001, 0.017, _near_neck),
            fabric=draft.fabric(weave="rib", folds=0.0),
            lift=0.0055,
            seams=(),
        ),
    ]


def _shirt(draft: Draft) -> list[Shell]:
    rng = draft.rng
    cloth = draft.fabric(
        pattern=str(rng.choice(["plain", "plain", "check", "stripes"])),
        scale=rng.uniform(0.5, 1.0),
        gloss=0.14,
        roughness=0.62,
    )
    return shirt(cloth, open_collar=rng.random() < 0.6, hang=rng.uniform(0.25, 0.5))


def shirt(fabric: Fabric, open_collar: bool, hang: float, sleeve: float = 0.70) -> list[Shell]:
    """Main part, placket with buttons, cuffs, collar."""
    height, v = 0.738, 0.075 if open_collar else 0.012
    top = _top(height, sleeve, v=v)

    def buttons(p: np.ndarray) -> np.ndarray:
        round_ = ramp(np.hypot(p[:, 0], (p[:, 1] + 0.045) % 0.09 - 0.045), 0.0052, 0.0042)
        return round_ * (p[:, 2] > 0.03) * (p[:, 1] < 0.69 - v)

    main = Shell(top, fabric, 0.0035, hang=hang, sleeve_ease=0.007, seams=(0.012,))

    def strip(p):
        return np.minimum(np.minimum(0.016 - np.abs(p[:, 0]), top(p) + 0.001), p[:, 2] - 0.02)

    placket = replace(main, depth=strip, fabric=replace(fabric, folds=0.3), lift=0.0050, seams=(0.003,), marks=buttons)
    cuffs = replace(
        main,
        depth=_band(top, -0.001, 0.05, _near_wrist),
        fabric=replace(fabric, folds=0.2),
        lift=0.0062,
        seams=(0.004,),
    )
    spread = 0.020 if open_collar else 0.004
    fall = replace(
        main, depth=lambda p: _collar(p, height, spread, 0.026), fabric=replace(fabric, folds=0.1), lift=0.0100, thickness=0.004, seams=(0.005,),
        relief=lambda p: 0.004 * ramp(_neck(p, height), 0.0, -0.02),
    )  # fmt: skip
    return [main, placket, cuffs, fall]


def _sweater(draft: Draft) -> list[Shell]:
    """Crew neck, turtleneck, or a V over a shirt; ribbed edges."""
    rng = draft.rng
    style = str(rng.choice(["crew", "turtle", "v"]))
    wool = draft.fabric(
        weave=str(rng.choice(["knit", "rib", "knit"])), pattern=str(rng.choice(["plain", "melange", "stripes"], p=[0.5, 0.35, 0.15])), gloss=0.04, roughness=0.9, scale=1.6
    )  # fmt: skip
    top = _top(0.737 if style != "turtle" else 0.745, 0.70, v=0.085 if style == "v" else 0.0)
    main = Shell(top, wool, 0.0075, thickness=0.005, hang=rng.uniform(0.3, 0.6), sleeve_ease=0.007, seams=())
    ribs = replace(wool, weave="rib", pattern="plain", folds=0.0)
    if style == "turtle":

        def roll(p):
            return np.minimum(_neck(p, 0.790) + 0.2 * np.clip(p[:, 2] - 0.05, 0, 1), 0.010 - _below(p, 0.745))

        edge = replace(
            main, depth=roll, fabric=ribs, lift=0.0095, relief=lambda p: 0.003 * ramp(_neck(p, 0.757), -0.006, 0.004)
        )
    else:
        edge = replace(main, depth=_band(top, -0.001, 0.022, _near_neck), fabric=ribs, lift=0.0095)
    cuffs = replace(main, depth=_band(top, -0.001, 0.045, _near_wrist), fabric=ribs, lift=0.0085)
    under = shirt(Fabric(DYES[0], draft.second), open_collar=True, hang=0.3) if style == "v" else []
    return [*under, main, edge, cuffs]


def _hoodie(draft: Draft) -> list[Shell]:
    cotton = draft.fabric(pattern=str(draft.rng.choice(["plain", "melange"])), gloss=0.05, roughness=0.88)
    top = _top(0.737, 0.70, v=0.03)
    main = Shell(top, cotton, 0.008, thickness=0.006, hang=0.6, sleeve_ease=0.007, seams=(0.02,))

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

    pocket = replace(main, depth=pouch, lift=0.013, thickness=0.004, seams=(0.006,))
    behind = replace(
        main, depth=hood, fabric=replace(cotton, folds=1.6), lift=0.013, thickness=0.010, seams=(), relief=bulk
    )
    cuffs = replace(
        main, depth=_band(top, -0.001, 0.05, _near_wrist), fabric=replace(cotton, weave="rib", folds=0.0), lift=0.009
    )
    return [main, pocket, behind, cuffs]


def _blazer(draft: Draft) -> list[Shell]:
    """Lapels with notches over a shirt or a tee."""
    rng, second = draft.rng, draft.second
    wool = Fabric(
        DYES[rng.choice([1, 2, 3, 6, 12, 13, 4])] * rng.uniform(0.8, 1.0), second, weave="twill",
        pattern=str(rng.choice(["plain", "melange", "check"], p=[0.6, 0.25, 0.15])), gloss=0.06, roughness=0.82, folds=0.7,
    )  # fmt: skip
    if wool.pattern == "check":
        wool = replace(wool, second=wool.colour * 0.72, scale=0.6)
    inner = Fabric(DYES[rng.choice([0, 8, 11, 15, 1])], second, gloss=0.14, roughness=0.6)
    if rng.random() < 0.55:
        under = shirt(inner, open_collar=rng.random() < 0.5, hang=0.15)[:2] + shirt(inner, True, 0.15)[3:]
    else:
        under = [Shell(_top(0.728, 0.30, v=0.0 if rng.random() < 0.5 else 0.07), inner, 0.003, hang=0.15)]
    button = rng.uniform(0.36, 0.42)

    def opening(p: np.ndarray) -> np.ndarray:  # distance into the jacket from its front edge
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
            ramp(np.hypot(p[:, 0] - 0.010, p[:, 1] - at), 0.0095, 0.0080) for at in (button - 0.018, button - 0.12)
        ) * (p[:, 2] > 0)

    main = Shell(jacket, wool, 0.010, thickness=0.005, hang=0.45, sleeve_ease=0.007, seams=(0.004,), marks=buttons)
    return [
        *under,
        main,
        replace(
            main, depth=lapel, fabric=replace(wool, folds=0.0), lift=0.0145, thickness=0.004, seams=(0.003,), marks=None
        ),
    ]


def _sari(draft: Draft) -> list[Shell]:
    """A pleated drape with a border over a short blouse that reaches the hips."""
    rng, colour, second = draft.rng, draft.colour, draft.second
    silk = Fabric(colour, METALS[0] * 0.9, gloss=0.35, roughness=0.45, weave="satin")
    blouse = Shell(
        _top(0.735, rng.uniform(0.29, 0.34), wide=0.06),
        replace(silk, colour=second),
        0.003,
        hang=0.1,
        sleeve_ease=0.004,
    )

    def drape(p: np.ndarray) -> np.ndarray:
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

    main = Shell(drape, silk, 0.008, hang=0.45, sleeve_ease=0.004, seams=(), relief=pleats)
    gold = replace(silk, colour=silk.second, pattern="dots", second=colour, scale=0.5, folds=0.4)
    return [blouse, main, replace(main, depth=_band(drape, 0.0, 0.022), fabric=gold, lift=0.0092)]


_TAILORS: dict[str, Callable[[Draft], list[Shell]]] = {
    "tee": _light_top, "blouse": _light_top, "dress": _light_top, "shirt": _shirt, "sweater": _sweater, "hoodie": _hoodie, "blazer": _blazer, "sari": _sari,
}  # fmt: skip
