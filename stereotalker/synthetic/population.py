"""Draws who the synthetic people are: every attribute of an identity, so that any run of identities is balanced.

Stratified attributes follow an additive recurrence (Roberts 2018) over the identity's number, so 48 people are as
balanced as 2,203. Everyone is an adult of 20 to 80 years, and clothed. All functions draw from the same random
generator, so the order of the draws is part of the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from stereotalker.body.face_changes import FACE_CHANGES
from stereotalker.synthetic.hair import COVERED

# Skin from light to dark in the ten steps of the Monk scale; sRGB of evenly lit skin.
SKIN_TONES = np.array([
    (240, 208, 192), (233, 196, 174), (226, 185, 156), (213, 168, 134), (194, 147, 111),
    (170, 123, 90), (144, 101, 73), (117, 80, 58), (92, 62, 47), (70, 48, 39),
], np.float64)  # fmt: skip
# sRGB of hair and of irises.
HAIR_COLOURS: dict[str, tuple[int, int, int]] = {
    "black": (30, 26, 25),
    "dark-brown": (50, 36, 28),
    "brown": (78, 54, 37),
    "light-brown": (112, 80, 54),
    "blond": (168, 132, 88),
    "red": (128, 62, 34),
    "dyed": (96, 30, 52),
}
IRISES: dict[str, tuple[int, int, int]] = {
    "dark": (52, 32, 20),
    "brown": (92, 58, 30),
    "hazel": (106, 90, 50),
    "green": (88, 104, 72),
    "blue": (92, 122, 152),
    "grey": (112, 122, 128),
}
OUTFITS = ("tee", "shirt", "blouse", "sweater", "hoodie", "blazer", "dress", "sari")
HEADWEAR = ("none", "scarf", "cap", "beanie")
BEARDS: dict[str, float] = {"none": 0.0, "stubble": 0.0022, "short": 0.006, "full": 0.016}  # length in m

Presentation = Literal["feminine", "masculine"]
Attributes: TypeAlias = dict[str, str | int | float | bool | dict[str, float]]
_FEMININE_HAIR = ("pixie", "bob", "fringe-bob", "wavy", "long", "long-curls", "ponytail", "bun", "curls", "afro")
_MASCULINE_HAIR = ("buzz", "short-parted", "crop", "quiff", "slicked", "curls", "afro", "ring", "bun", "wavy")
_MIN_TONE = {"afro": 6, "buzz": 0}  # lowest index into SKIN_TONES with which a style is drawn
_STEPS = 1 / 1.1347241384015194 ** np.arange(1, 6)  # the constants of Roberts' recurrence for five dimensions


@dataclass(frozen=True)
class Person:
    """One identity. Colors are sRGB 0..255. Phenotypes and face are arguments of body.shape_space.ShapeSpace."""

    number: int  # of the identity
    age: int  # years
    presentation: Presentation
    build: str  # slight, average, athletic, heavy
    tone: int  # index into SKIN_TONES
    phenotypes: dict[str, float]  # each in 0..1
    face: np.ndarray  # f64 [len(FACE_CHANGES)], amounts of local changes
    skin: np.ndarray  # f64 [3] sRGB
    iris: str  # a key of IRISES
    hair: str  # a key of hair.STYLES, or COVERED
    hair_colour: str  # a key of HAIR_COLOURS
    parted_right: bool  # whether the parting is mirrored
    grey: float  # share of white hair, 0..1
    beard: str  # a key of BEARDS
    moustache: bool
    brow: float  # factor of the brows' height
    makeup: float  # 0..1
    freckles: float  # 0..1
    outfit: str  # a value of OUTFITS
    headwear: str  # a value of HEADWEAR
    glasses: str  # none, round, square, half
    earrings: str  # none, stud, hoop, drop
    personality: int  # index into acting.reference_acting.STYLES
    seed: int  # of every finer detail

    def attributes(self) -> Attributes:
        """The attributes that are recorded. Skin color and face are left out; they follow from the identity's number.

        The tone is counted from 1, as on the Monk scale; fractions are rounded to four places.
        """
        names = (
            "age", "presentation", "build", "tone", "iris", "hair", "hair_colour", "grey", "beard", "moustache", "brow",
            "makeup", "freckles", "outfit", "headwear", "glasses", "earrings", "personality",
        )  # fmt: skip
        values = {name: getattr(self, name) for name in names} | {"tone": self.tone + 1, "phenotypes": self.phenotypes}
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}


def draw_person(number: int, personalities: int) -> Person:
    """The identity of a number. The same number gives the same identity. personalities: the number of acting styles."""
    rng = np.random.default_rng([number, 77])
    # Evenly spread numbers in 0..1 for presentation, tone, age, outfit and build.
    even = (0.5 + _STEPS * (number + 1)) % 1
    feminine = bool(even[0] < 0.5)
    tone = int(even[1] * len(SKIN_TONES))
    age = int(20 + even[2] * 61)
    build = ("slight", "average", "athletic", "heavy")[int(even[4] * 4)]
    outfit = _outfit(even[3], feminine, rng)
    headwear = str(rng.choice(HEADWEAR, p=[0.86, 0.09, 0.02, 0.03] if feminine else [0.88, 0.0, 0.07, 0.05]))
    if outfit == "hoodie" and headwear == "scarf":
        outfit = "sweater"
    hair = COVERED if headwear == "scarf" else _hair(feminine, age, tone, headwear, rng)
    beard = "none" if feminine else str(rng.choice(list(BEARDS), p=[0.42, 0.24, 0.2, 0.14]))
    # The draws below are part of the result in this order.
    return Person(
        number=number,
        age=age,
        presentation="feminine" if feminine else "masculine",
        build=build,
        tone=tone,
        phenotypes=_phenotypes(feminine, age, tone, build, rng),
        face=_face(feminine, age, tone, rng),
        skin=_skin(tone, rng),
        iris=_iris(tone, rng),
        hair=hair,
        hair_colour=_hair_colour(tone, feminine, rng),
        parted_right=bool(rng.random() < 0.4),
        grey=_grey(age, feminine, rng),
        beard=beard,
        moustache=bool(rng.random() < 0.85),
        brow=rng.uniform(0.65, 0.95) if feminine else rng.uniform(0.9, 1.35),
        makeup=float(feminine) * rng.choice([0.0, 0.35, 0.7, 1.0], p=[0.25, 0.35, 0.25, 0.15]),
        freckles=float(rng.random() < (0.25 if tone < 4 else 0.08)) * rng.uniform(0.4, 1),
        outfit=outfit,
        headwear=headwear,
        glasses=_glasses(age, rng),
        earrings=_earrings(feminine, headwear, rng),
        personality=int(rng.integers(personalities)),
        seed=int(rng.integers(1 << 30)),
    )


def _glasses(age: int, rng) -> str:
    shares = [0.72, 0.1, 0.13, 0.05] if age < 45 else [0.52, 0.15, 0.2, 0.13]
    return str(rng.choice(["none", "round", "square", "half"], p=shares))


def _earrings(feminine: bool, headwear: str, rng) -> str:
    if headwear == "scarf":
        return "none"
    shares = [0.4, 0.25, 0.2, 0.15] if feminine else [0.94, 0.04, 0.02, 0.0]
    return str(rng.choice(["none", "stud", "hoop", "drop"], p=shares))


def _outfit(even: float, feminine: bool, rng) -> str:
    choices = OUTFITS if feminine else ("tee", "shirt", "sweater", "hoodie", "blazer", "blazer", "tee", "shirt")
    return choices[int(even * len(choices))]


def _hair(feminine: bool, age: int, tone: int, headwear: str, rng) -> str:
    choices = [h for h in (_FEMININE_HAIR if feminine else _MASCULINE_HAIR) if tone >= _MIN_TONE.get(h, 0)]
    if headwear != "none":  # styles that fit under a cap
        choices = [h for h in choices if h in ("buzz", "crop", "short-parted", "pixie", "bob", "long", "wavy")]
    weights = np.ones(len(choices))
    for k, name in enumerate(choices):
        if name == "ring":
            weights[k] = 0.05 if age < 40 else 1.6
        if not feminine and name in ("wavy", "bun"):
            weights[k] = 0.3
        if name in ("afro", "curls", "buzz") and tone >= 7:
            weights[k] = 2.0
    return str(rng.choice(choices, p=weights / weights.sum()))


def _hair_colour(tone: int, feminine: bool, rng) -> str:
    if feminine and rng.random() < 0.03:
        return "dyed"
    dark = np.clip(tone / 4, 0, 1)
    weights = np.array([0.16 + 0.5 * dark, 0.24 + 0.2 * dark, 0.24, 0.14, 0.15, 0.07]) * np.array(
        [1, 1, 1 - 0.6 * dark, 1 - dark, 1 - dark, 1 - dark]
    )
    return str(rng.choice(list(HAIR_COLOURS)[:6], p=weights / weights.sum()))


def _grey(age: int, feminine: bool, rng) -> float:
    if age < 35 or feminine and rng.random() < 0.45:  # Those who dye their hair show no grey.
        return 0.0
    return float(np.clip((age - 38) / 32 + rng.normal(0, 0.2), 0, 1))


def _iris(tone: int, rng) -> str:
    light = np.array([0.05, 0.27, 0.18, 0.14, 0.26, 0.10])
    dark = np.array([0.62, 0.34, 0.03, 0.01, 0.0, 0.0])
    share = np.clip((tone - 1) / 4, 0, 1)
    return str(rng.choice(list(IRISES), p=light * (1 - share) + dark * share))


def _skin(tone: int, rng) -> np.ndarray:
    """A skin color within half a step of the tone, sRGB f64 [3]."""
    place = np.clip(tone + rng.uniform(-0.5, 0.5), 0, len(SKIN_TONES) - 1)
    low = min(int(place), len(SKIN_TONES) - 2)
    colour = SKIN_TONES[low] + (place - low) * (SKIN_TONES[low + 1] - SKIN_TONES[low])
    warm, rosy = rng.normal(0, 1, 2)
    return colour * (1 + 0.018 * warm * np.array([0.3, 0.4, -1.0]) + 0.014 * rosy * np.array([0.7, -0.7, -0.2]))


def _phenotypes(feminine: bool, age: int, tone: int, build: str, rng) -> dict[str, float]:
    """Phenotypes of the body shape, each in 0..1. An age of 2/3 stands for up to 24 years."""
    heavy = {"slight": 0.16, "average": 0.34, "athletic": 0.34, "heavy": 0.66}[build] + rng.normal(0, 0.05)
    muscle = {"slight": 0.30, "average": 0.42, "athletic": 0.68, "heavy": 0.45}[build] + rng.normal(0, 0.06)
    african = np.clip((tone - 4.5) / 4 + rng.normal(0, 0.15), 0, 1)
    asian = (1 - african) * (rng.random() < (0.38 if 0 < tone < 6 else 0.1)) * rng.uniform(0.6, 1)
    drawn = {
        "gender": rng.uniform(0.0, 0.12) if feminine else rng.uniform(0.90, 1.0),
        "age": 2 / 3 + 0.31 * np.clip((age - 24) / 56, 0, 1),
        "muscle": muscle,
        "weight": heavy,
        "height": rng.normal(0.5, 0.12),
        "proportions": rng.uniform(0.45, 0.9),
        "cupsize": rng.uniform(0.2, 0.55) if feminine else 0.1,
        "firmness": rng.uniform(0.4, 0.8),
        "african": african,
        "asian": asian,
        "caucasian": max(1 - african - asian, 0.0),
    }
    return {
        name: float(np.clip(value, 0.0 if name == "gender" else 0.1, 1.0 if name in ("age", "gender") else 0.9))
        for name, value in drawn.items()
    }


def _face(feminine: bool, age: int, tone: int, rng) -> np.ndarray:
    """Amounts of the local changes of the face, f64 [len(FACE_CHANGES)].

    Changes that could open lids or lips are kept small.
    """
    amounts = np.clip(rng.normal(0, 0.36, len(FACE_CHANGES)), -0.8, 0.8)
    old = np.clip((age - 30) / 50, 0, 1)
    shifts = {
        "head/head-age": 0.35 * old,
        "eyes/eye-bag": 0.5 * old,
        "neck/neck-double": 0.25 * old,
        "nose/nose-scale-horiz": 0.035 * max(tone - 5, 0),
        "mouth/mouth-upperlip-volume": 0.05 * max(tone - 5, 0),
        "mouth/mouth-lowerlip-volume": 0.04 * max(tone - 5, 0),
        "chin/chin-width": -0.15 if feminine else 0.2,
        "chin/chin-bones": -0.1 if feminine else 0.2,
        "mouth/mouth-angles": 0.22,
    }
    scales = {
        "eye": 0.5,
        "eyebrows": 0.6,
        "mouth-trans": 0.4,
        "mouth-scale-vert": 0.5,
        "prognathism": 0.4,
        "head-scale": 0.45,
        "mouth-angles": 0.4,
        "head-age": 0.3,
        "neck": 0.5,
        "ear-wing": 0.5,
    }
    for k, name in enumerate(FACE_CHANGES):
        for part, scale in scales.items():
            amounts[k] *= scale if part in name else 1.0
        amounts[k] += shifts.get(name, 0.0)
    return amounts
