"""Which pixel of a portrait shows what: the person's outline, then the regions of layout.REGIONS (clothes are torso, arms or legs).

The detector's soft mask says roughly where the person is; graph cuts find the edge near it, and tell hair from skin by colour. The
fitted body says which part a pixel belongs to, but of hands, which colours tell more exactly.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt

from stereotalker.avatar import color_segmentation
from stereotalker.avatar.background import disc
from stereotalker.avatar.hand_segmentation import FittedHand, segment_hand
from stereotalker.avatar.landmarks import FACE_OVAL, Landmarks
from stereotalker.body.model import Body
from stereotalker.geometry.rasterizer import rasterize
from stereotalker.smplx_layout import JOINT, JOINTS, REGION, SIDES

_WORK = 512  # px of the longer side at which graphs are cut
_BAND = 0.012  # of the longer side: how far the cut may leave the detector's edge
_LIPS = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146)
_LEGS_Y = 0.13  # m of the rest pose: trousers begin below
_BROWS = (105, 334)
_HEAD, _NECK = 100, 101  # parts of the body that no region names


def outline(picture: np.ndarray, person: np.ndarray, likely: np.ndarray | None = None) -> np.ndarray:
    """The person's mask, bool [H, W]. picture u8 [H, W, 3]; person f32 [H, W] probability; likely bool [H, W]: may be person, too."""
    H, W = person.shape
    scale = min(1.0, _WORK / max(H, W))
    size = (round(W * scale), round(H * scale))
    also = np.zeros_like(person) if likely is None else likely.astype(np.float32)
    small, chance, also = (cv2.resize(a, size, interpolation=cv2.INTER_AREA) for a in (picture, person, also))
    band = max(2, round(_BAND * max(size)))
    core = cv2.erode((chance > 0.5).astype(np.uint8), disc(band), borderValue=1)
    inside = ((chance > 0.5) | (also > 0.5)).astype(np.uint8)
    reach = cv2.dilate(inside, disc(band))
    marks = np.where(inside > 0, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    marks[core > 0], marks[reach == 0] = cv2.GC_FGD, cv2.GC_BGD
    soft = cv2.resize(color_segmentation.cut(small, marks).astype(np.float32), (W, H), interpolation=cv2.INTER_CUBIC)
    sigma = 0.6 / scale
    return _largest(cv2.GaussianBlur(soft, (0, 0), sigma) > 0.5)


def regions(picture: np.ndarray, mask: np.ndarray, marks: Landmarks, body: Body, pixels: np.ndarray) -> np.ndarray:
    """u8 [H, W], index into layout.REGIONS. pixels f32 [V, 3]: the fitted body in the picture."""
    unseen = sum(
        (body.hand_weight(side) for side in SIDES if side not in marks.hands), np.zeros(len(pixels))
    )  # hands that were not found show nothing
    part = _parts_in_picture(mask.shape, body, pixels, unseen)
    lab = color_segmentation.cielab(picture)
    face, mouth = (_filled(marks.face[list(points)], mask.shape) > 0 for points in (FACE_OVAL, _LIPS))
    row, chin, height = np.arange(len(mask))[:, None], marks.face[:, 1].max(), marks.face_height
    head = (part == _HEAD) & mask
    trunk = np.isin(part, (_NECK, REGION["torso"])) & mask
    cloth = color_segmentation.distance(lab, lab[trunk & (row > chin + 1.2 * height)])
    skin = color_segmentation.distance(
        lab, lab[cv2.erode(face.astype(np.uint8), disc(max(1, round(0.04 * height)))) > 0]
    )
    near = head | trunk & (row < chin + 1.2 * height)
    bare = _cut_skin(picture, near, (skin < color_segmentation.ALIKE) & ((skin < cloth) | head), face)
    out = np.where(mask, np.where(np.isin(part, (_HEAD, _NECK)), REGION["torso"], part), 0).astype(np.uint8)
    out[head] = np.where(bare, REGION["face"], REGION["hair"])[head]
    out[trunk & _touches(bare, face)] = REGION["face"]
    hair = out == REGION["hair"]
    if hair.sum() > 0.03 * head.sum():
        like = color_segmentation.distance(lab, lab[hair])
        fallen = near & (out == REGION["torso"]) & (like < color_segmentation.ALIKE) & (like < cloth)
        out[fallen & _touches(fallen | hair, hair)] = REGION["hair"]
    brows = marks.face[list(_BROWS), 1].min()
    fringe = face & mask & ~bare & (row < brows) & _touches(face & ~bare & (row < brows) | hair, hair)
    out[face & mask & ~fringe] = REGION["face"]
    out[mouth & mask] = REGION["mouth"]
    for side in marks.hands:
        out = segment_hand(out, _fitted_hand(side, mask.shape, body, pixels, unseen), picture, lab, skin)
    return out


def body_parts(body: Body) -> np.ndarray:
    """The part of every vertex as far as the body alone tells it: a region, or _HEAD or _NECK. u8 [V]."""

    def sums(names):
        return body.weights[:, [JOINT[n] for n in names]].sum(1)

    shares = {
        _HEAD: sums(("head", "jaw", "left_eye", "right_eye")), _NECK: sums(("neck",)), REGION["hands"]: body.hand_weight(),
        REGION["arms"]: sums([n for n in JOINTS if n.endswith(("shoulder", "elbow"))]),
        REGION["torso"]: sums(("pelvis", "spine1", "spine2", "spine3", "left_collar", "right_collar")),
        REGION["legs"]: sums([n for n in JOINTS if n.endswith(("hip", "knee", "ankle", "foot"))]),
    }  # fmt: skip
    part = np.array(list(shares))[np.stack(list(shares.values())).argmax(0)]
    return np.where((part == REGION["torso"]) & (body.template[:, 1] < _LEGS_Y), REGION["legs"], part).astype(np.uint8)


def _corners(shape: tuple[int, int], body: Body, pixels: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """The vertex that a pixel shows, i64 [H, W], -1 outside the body. hidden [V]: more than half of it, and a vertex is left out."""
    shown = body.faces[(hidden[body.faces] < 0.5).all(1)]
    return rasterize(pixels, shown, shape).vertices(shown)


def _parts_in_picture(shape: tuple[int, int], body: Body, pixels: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """What part of the body a pixel shows, outside the body the nearest. u8 [H, W]."""
    corner = _corners(shape, body, pixels, hidden)
    known = np.where(corner >= 0, body_parts(body)[corner], 0)
    rows, columns = distance_transform_edt(known == 0, return_distances=False, return_indices=True)
    return known[rows, columns]


def _fitted_hand(side: str, shape: tuple[int, int], body: Body, pixels: np.ndarray, unseen: np.ndarray) -> FittedHand:
    """One hand of the body in the picture, and the body without it. unseen [V]: weights of what is not in the picture."""
    corner, own = _corners(shape, body, pixels, unseen), body.hand_weight(side)
    drawn = (corner >= 0) & (own > 0.5)[corner]
    palm = body.weights[:, JOINT[f"{side}_wrist"]] > 0.5
    other = _corners(shape, body, pixels, unseen + own)
    behind = np.where(other >= 0, body_parts(body)[other], 0)
    behind = np.where(behind == _NECK, REGION["torso"], behind)
    return FittedHand(drawn, drawn & ~palm[corner], np.where(behind == _HEAD, REGION["hands"], behind).astype(np.uint8))


def _cut_skin(picture: np.ndarray, near: np.ndarray, skin: np.ndarray, face: np.ndarray) -> np.ndarray:
    """Bare skin among the pixels `near` the head, bool [H, W]."""
    H, W = near.shape
    rows, columns = np.nonzero(near)
    window = np.s_[max(rows.min() - 4, 0) : rows.max() + 5, max(columns.min() - 4, 0) : columns.max() + 5]
    scale = min(1.0, _WORK / max(near[window].shape))
    size = tuple(max(8, round(n * scale)) for n in near[window].shape[::-1])
    small = cv2.resize(picture[window], size, interpolation=cv2.INTER_AREA)

    def flag(a):
        return cv2.resize(a[window].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0

    marks = np.where(flag(skin), cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    marks[~flag(near)] = cv2.GC_BGD
    core = cv2.erode(flag(face).astype(np.uint8), disc(max(1, size[1] // 24))) > 0
    marks[core & flag(skin)] = cv2.GC_FGD
    out = np.zeros((H, W), bool)
    out[window] = (
        cv2.resize(
            color_segmentation.cut(small, marks).astype(np.uint8),
            near[window].shape[::-1],
            interpolation=cv2.INTER_NEAREST,
        )
        > 0
    )
    return out & near


def _touches(mask: np.ndarray, seed: np.ndarray) -> np.ndarray:
    """The connected parts of `mask` that hold a pixel of `seed`."""
    _, labels = cv2.connectedComponents(mask.astype(np.uint8))
    found = np.unique(labels[seed & mask])
    return np.isin(labels, found[found > 0])


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected part, its small holes filled (a hole between arm and trunk stays)."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count < 2:
        return mask
    kept = labels == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()
    count, labels, stats, _ = cv2.connectedComponentsWithStats((~kept).astype(np.uint8))
    small = 1 + np.flatnonzero(stats[1:, cv2.CC_STAT_AREA] < 2e-4 * mask.size)
    return kept | np.isin(labels, small)


def _filled(polygon: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    out = np.zeros(shape, np.uint8)
    cv2.fillPoly(out, [np.rint(polygon).astype(np.int32)], 1)
    return out
