"""Segmentation of a portrait: first the person's outline, then the region label of every pixel (smplx_layout.REGIONS).

The detector's soft mask shows roughly where the person is. Graph cuts find the exact edge near it, and separate hair
from skin by color. The fitted body gives the part that a pixel belongs to, except for hands, whose colors are more
exact. Clothes are labeled torso, arms or legs.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt

from stereotalker.avatar import color_segmentation
from stereotalker.avatar.color_segmentation import SAME_MATERIAL_SD
from stereotalker.avatar.hand_segmentation import segment_hands
from stereotalker.avatar.landmarks import FACE_OVAL, Landmarks
from stereotalker.avatar.limb_segmentation import FittedLimb, find_sleeve_ends, segment_limb
from stereotalker.body.model import Body
from stereotalker.geometry.rasterizer import rasterize
from stereotalker.media.morphology import disk_kernel
from stereotalker.smplx_layout import JOINT, JOINTS, REGION, SIDES

# Graph cuts run in a picture that is scaled down to this length of the longer side, px.
_CUT_SIZE_PX = 512
# How far the cut may leave the detector's edge, share of the longer side.
_EDGE_BAND = 0.012
# A part of the mask that is thinner than this, along rows or along columns, is a spike; share of the longer side.
_SPIKE = 0.008
# Face points along the outer edge of the lips, and above the middle of each eyebrow.
_LIPS = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146)
_BROWS = (105, 334)
# Height of the rest pose below which clothes on the trunk are trousers, m.
_LEGS_Y = 0.13
# How far below the chin skin and hair are searched for, and the clothes' colors are not sampled. In face heights.
_NECKLINE = 1.2
# How many times farther sleeves may stand off the body's arm than other clothes off the body.
_SLEEVE_REACH = 1.8
# Labels of body parts that are no region of their own.
_HEAD, _NECK = 100, 101


def outline(picture: np.ndarray, person: np.ndarray, likely: np.ndarray | None = None) -> np.ndarray:
    """Segment the person, bool [H, W].

    picture u8 [H, W, 3]; person f32 [H, W]: the detector's probability; likely bool [H, W]: pixels that the detector
    may have missed, such as fingers.
    """
    H, W = person.shape
    scale = min(1.0, _CUT_SIZE_PX / max(H, W))
    size = (round(W * scale), round(H * scale))
    likely = np.zeros_like(person) if likely is None else likely.astype(np.float32)
    small, person, likely = (cv2.resize(a, size, interpolation=cv2.INTER_AREA) for a in (picture, person, likely))
    band = max(2, round(_EDGE_BAND * max(size)))
    certain = cv2.erode((person > 0.5).astype(np.uint8), disk_kernel(band), borderValue=1)
    probable = ((person > 0.5) | (likely > 0.5)).astype(np.uint8)
    possible = cv2.dilate(probable, disk_kernel(band))
    marks = np.where(probable > 0, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    marks[certain > 0], marks[possible == 0] = cv2.GC_FGD, cv2.GC_BGD
    foreground = color_segmentation.grab_cut(small, marks).astype(np.float32)
    soft = cv2.resize(foreground, (W, H), interpolation=cv2.INTER_CUBIC)
    person_mask = _largest_component(cv2.GaussianBlur(soft, (0, 0), 0.6 / scale) > 0.5)
    # Horizontal and vertical spikes are edges of furniture that end at the person. Fingers are as thin, but expected.
    length = max(2, round(_SPIKE * max(H, W)))
    opened = np.ones_like(person_mask)
    for kernel in (np.ones((length, 1), np.uint8), np.ones((1, length), np.uint8)):
        padded = np.pad(person_mask.astype(np.uint8), length, mode="edge")
        opened &= cv2.morphologyEx(padded, cv2.MORPH_OPEN, kernel)[length:-length, length:-length] > 0
    expected = cv2.resize(likely, (W, H), interpolation=cv2.INTER_NEAREST)
    near_fingers = cv2.dilate((expected > 0.5).astype(np.uint8), disk_kernel(max(2, round(2 * _EDGE_BAND * max(H, W)))))
    return _largest_component(person_mask & (opened | (near_fingers > 0)))


def label_regions(
    picture: np.ndarray, mask: np.ndarray, landmarks: Landmarks, body: Body, pixels: np.ndarray
) -> np.ndarray:
    """Region labels u8 [H, W], indices into smplx_layout.REGIONS.

    picture u8 [H, W, 3]; mask bool [H, W]: the person; pixels f32 [V, 3]: the fitted body in the picture (x px, y px,
    depth m).
    """
    assert landmarks.face is not None
    # A hand that was not detected is outside the picture or hidden, so the body is used without it.
    hidden = sum((body.hand_weight(side) for side in SIDES if side not in landmarks.hands), np.zeros(len(pixels)))
    part = _project_parts(mask.shape, body, pixels, hidden)
    lab = color_segmentation.cielab(picture)
    face, mouth = (_fill_polygon(landmarks.face[list(points)], mask.shape) > 0 for points in (FACE_OVAL, _LIPS))
    row, chin, height = np.arange(len(mask))[:, None], landmarks.face[:, 1].max(), landmarks.face_height
    head = (part == _HEAD) & mask
    trunk = np.isin(part, (_NECK, REGION["torso"])) & mask
    # Distances of every pixel from the colors of clothes and of the face.
    cloth = color_segmentation.distance(lab, lab[trunk & (row > chin + _NECKLINE * height)])
    inner_face = cv2.erode(face.astype(np.uint8), disk_kernel(max(1, round(0.04 * height)))) > 0
    skin = color_segmentation.distance(lab, lab[inner_face])
    near_head = head | trunk & (row < chin + _NECKLINE * height)
    bare = _segment_skin(picture, near_head, (skin < SAME_MATERIAL_SD) & ((skin < cloth) | head), face)
    regions = np.where(mask, np.where(np.isin(part, (_HEAD, _NECK)), REGION["torso"], part), 0).astype(np.uint8)
    regions[head] = np.where(bare, REGION["face"], REGION["hair"])[head]
    regions[trunk & _connected_to(bare, face)] = REGION["face"]
    hair = regions == REGION["hair"]
    # Hair also hangs over the trunk.
    if hair.sum() > 0.03 * head.sum():
        hair_color = color_segmentation.distance(lab, lab[hair])
        is_hair_color = (hair_color < SAME_MATERIAL_SD) & (hair_color < cloth)
        hanging = near_head & (regions == REGION["torso"]) & is_hair_color
        regions[hanging & _connected_to(hanging | hair, hair)] = REGION["hair"]
    # The face is skin, except for hair that hangs over the forehead.
    brows = landmarks.face[list(_BROWS), 1].min()
    fringe = face & mask & ~bare & (row < brows) & _connected_to(face & ~bare & (row < brows) | hair, hair)
    regions[face & mask & ~fringe] = REGION["face"]
    regions[mouth & mask] = REGION["mouth"]
    limbs = project_limbs(tuple(landmarks.hands), mask.shape, body, pixels, hidden)
    for side, bare_from in find_sleeve_ends(limbs, regions, lab, skin).items():
        regions = segment_limb(regions, limbs[side], bare_from, picture, lab, skin)
    return segment_hands(picture, regions, landmarks.hands)


def body_parts(body: Body) -> np.ndarray:
    """The part of every vertex of the body: a region, or _HEAD or _NECK. u8 [V]."""

    def sum_weights(names):
        return body.weights[:, [JOINT[n] for n in names]].sum(1)

    weights = {
        _HEAD: sum_weights(("head", "jaw", "left_eye", "right_eye")),
        _NECK: sum_weights(("neck",)),
        REGION["hands"]: body.hand_weight(),
        REGION["arms"]: sum_weights([n for n in JOINTS if n.endswith(("shoulder", "elbow"))]),
        REGION["torso"]: sum_weights(("pelvis", "spine1", "spine2", "spine3", "left_collar", "right_collar")),
        REGION["legs"]: sum_weights([n for n in JOINTS if n.endswith(("hip", "knee", "ankle", "foot"))]),
    }
    part = np.array(list(weights))[np.stack(list(weights.values())).argmax(0)]
    return np.where((part == REGION["torso"]) & (body.template[:, 1] < _LEGS_Y), REGION["legs"], part).astype(np.uint8)


def _visible_vertices(shape: tuple[int, int], body: Body, pixels: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """The vertex that every pixel shows, i64 [H, W], -1 outside the body.

    hidden [V]: a vertex is left out if its value is 0.5 or more.
    """
    faces = body.faces[(hidden[body.faces] < 0.5).all(1)]
    return rasterize(pixels, faces, shape).vertices(faces)


def _project_parts(shape: tuple[int, int], body: Body, pixels: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """The body part that every pixel shows; outside the body, that of the nearest pixel inside it. u8 [H, W].

    Outside the body, arms count as nearer than they are, because sleeves stand off an arm farther than a shirt off the
    trunk.
    """
    vertex = _visible_vertices(shape, body, pixels, hidden)
    part = np.where(vertex >= 0, body_parts(body)[vertex], 0)
    is_limb = np.isin(part, (REGION["arms"], REGION["hands"]))
    nearest, distance = [], []
    for is_kind, reach in ((is_limb, _SLEEVE_REACH), ((part > 0) & ~is_limb, 1.0)):
        to_kind, (rows, columns) = distance_transform_edt(~is_kind, return_indices=True)
        nearest.append(part[rows, columns])
        distance.append(to_kind / reach if is_kind.any() else np.full(shape, np.inf))
    return np.where(part > 0, part, np.where(distance[0] < distance[1], *nearest))


def project_limbs(
    sides: tuple[str, ...], shape: tuple[int, int], body: Body, pixels: np.ndarray, hidden: np.ndarray
) -> dict[str, FittedLimb]:
    """Arms of the fitted body in the picture, by side, and what the body shows without them.

    pixels f32 [V, 3]: x px, y px, depth m; hidden [V]: a vertex is left out if its value is 0.5 or more.
    """
    return {side: _project_limb(side, shape, body, pixels, hidden) for side in sides}


def _project_limb(side: str, shape: tuple[int, int], body: Body, pixels: np.ndarray, hidden: np.ndarray) -> FittedLimb:
    vertex, hand_weight = _visible_vertices(shape, body, pixels, hidden), body.hand_weight(side)
    is_drawn, parts = vertex >= 0, body_parts(body)
    is_side = body.template[:, 0] * (1 if side == "left" else -1) > 0
    is_arm = (parts == REGION["arms"]) & is_side
    is_other = np.isin(parts, (REGION["arms"], REGION["hands"])) & ~is_side | np.isin(parts, (_HEAD, _NECK))
    vertex_behind = _visible_vertices(shape, body, pixels, hidden + hand_weight)
    behind = np.where(vertex_behind >= 0, parts[vertex_behind], 0)
    behind = np.where(behind == _NECK, REGION["torso"], behind)
    behind = np.where(behind == _HEAD, REGION["hands"], behind).astype(np.uint8)
    return FittedLimb(
        hand=is_drawn & (hand_weight > 0.5)[vertex],
        arm=is_drawn & is_arm[vertex],
        reach=np.abs(body.template[vertex, 0]),
        others=is_drawn & is_other[vertex],
        behind_hand=behind,
    )


def _segment_skin(picture: np.ndarray, near_head: np.ndarray, skin: np.ndarray, face: np.ndarray) -> np.ndarray:
    """Segment bare skin among the pixels `near_head`. All bool [H, W] but for the picture, u8 [H, W, 3].

    skin: pixels with the face's colors; face: inside of the face's oval.
    """
    H, W = near_head.shape
    rows, columns = np.nonzero(near_head)
    window = np.s_[max(rows.min() - 4, 0) : rows.max() + 5, max(columns.min() - 4, 0) : columns.max() + 5]
    window_size = near_head[window].shape[::-1]
    scale = min(1.0, _CUT_SIZE_PX / max(near_head[window].shape))
    size = tuple(max(8, round(n * scale)) for n in window_size)
    small = cv2.resize(picture[window], size, interpolation=cv2.INTER_AREA)

    def shrink(mask):
        return cv2.resize(mask[window].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0

    marks = np.where(shrink(skin), cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    marks[~shrink(near_head)] = cv2.GC_BGD
    core = cv2.erode(shrink(face).astype(np.uint8), disk_kernel(max(1, size[1] // 24))) > 0
    marks[core & shrink(skin)] = cv2.GC_FGD
    cut = color_segmentation.grab_cut(small, marks).astype(np.uint8)
    result = np.zeros((H, W), bool)
    result[window] = cv2.resize(cut, window_size, interpolation=cv2.INTER_NEAREST) > 0
    return result & near_head


def _connected_to(mask: np.ndarray, seed: np.ndarray) -> np.ndarray:
    """The connected components of `mask` that contain a pixel of `seed`. bool [H, W]."""
    _, labels = cv2.connectedComponents(mask.astype(np.uint8))
    kept = np.unique(labels[seed & mask])
    return np.isin(labels, kept[kept > 0])


def _largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest connected component with its small holes filled, bool [H, W].

    A large hole remains, such as that between an arm and the trunk.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count < 2:
        return mask
    largest = labels == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()
    count, labels, stats, _ = cv2.connectedComponentsWithStats((~largest).astype(np.uint8))
    small = 1 + np.flatnonzero(stats[1:, cv2.CC_STAT_AREA] < 2e-4 * mask.size)
    return largest | np.isin(labels, small)


def _fill_polygon(polygon: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Draw the inside of a polygon [N, 2] px, u8 [H, W]."""
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [np.rint(polygon).astype(np.int32)], 1)
    return mask
