import numpy as np
import pytest
import torch

from stereotalker.avatar.library import Library, read_avatar
from stereotalker.body.model import _skinning, load_body
from stereotalker.errors import UserError
from stereotalker.geometry import camera
from stereotalker.geometry.camera_path import CameraKeyFrame, CameraPath
from stereotalker.geometry.rasterizer import rasterize, vertex_normals
from stereotalker.geometry.rotations import axis_angle_to_matrix, resample_axis_angle, rotation_between
from stereotalker.params import resolve
from stereotalker.records import Motion
from stereotalker.smplx_layout import ACTION, JOINT, JOINTS


def motion(frames=2, seed=None) -> Motion:
    rng = np.random.default_rng(seed)
    size = 0.0 if seed is None else 0.3
    poses = rng.normal(0, size, (frames, 55, 3)).astype(np.float32)
    return Motion(poses, (size * rng.random((frames, 52))).astype(np.float32), np.zeros((frames, 3), np.float32), 25.0)


def test_both_readers_agree(tiny_params, body):
    native = load_body(resolve(tiny_params.body.file), "native", tiny_params.body.betas)
    betas = np.random.default_rng(1).normal(size=tiny_params.body.betas).astype(np.float32)
    surface = np.random.default_rng(2).normal(0, 0.01, body.template.shape).astype(np.float16)
    assert np.abs(body.pose(motion(3, 0), betas, surface) - native.pose(motion(3, 0), betas, surface)).max() < 1e-5


def test_rest_pose_is_a_t_pose_of_an_adult(body):
    joints = body.template[body.part == 5]
    assert len(joints) == len(JOINTS)
    left, right = joints[JOINT["left_wrist"]], joints[JOINT["right_wrist"]]
    assert left[0] > 0.6 and np.allclose(left * [-1, 1, 1], right, atol=1e-3)
    assert abs(left[1] - joints[JOINT["left_shoulder"], 1]) < 0.01
    assert 1.5 < np.ptp(body.template[body.part == 0, 1]) < 1.95


def test_the_file_is_what_smplx_expects(body):
    import smplx
    from smplx.vertex_ids import vertex_ids

    model = smplx.SMPLX(str(body.path), num_betas=20, num_expression_coeffs=52, use_pca=False, ext="npz")
    output = model(expression=torch.zeros(1, 52), betas=torch.zeros(1, 20))
    assert output.joints.shape == (1, 127, 3)
    nose = body.template[vertex_ids["smplx"]["nose"]]
    assert abs(nose[0]) < 1e-3 and nose[2] == pytest.approx(
        body.template[(body.part == 0) & (body.template[:, 1] > 0.7), 2].max()
    )
    tip, wrist = body.template[vertex_ids["smplx"]["lindex"]], body.template[body.part == 5][JOINT["left_wrist"]]
    assert tip[0] > wrist[0] + 0.1


def test_jaw_joint_opens_what_the_action_opens(body):
    open_jaw, action = motion(1), motion(1)
    open_jaw.poses[0, JOINT["jaw"], 0] = 0.32
    action.expression[0, ACTION["jawOpen"]] = 1.0
    assert body.lip_aperture(motion(1))[0] == pytest.approx(0, abs=1e-3)
    assert (
        body.lip_aperture(open_jaw)[0] == pytest.approx(body.lip_aperture(action)[0], rel=0.01)
        and body.lip_aperture(open_jaw)[0] > 20
    )


def test_a_missing_body_is_named(tmp_path):
    with pytest.raises(UserError, match="body.file"):
        load_body(tmp_path / "SMPLX_NEUTRAL.npz")


def test_rotations():
    vectors = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    matrices = axis_angle_to_matrix(vectors)
    assert torch.allclose(matrices @ matrices.mT, torch.eye(3).expand(5, 3, 3), atol=1e-5)
    a, b = np.array([1.0, 2, 3]), np.array([-2.0, 0.5, 1])
    assert np.allclose(rotation_between(a, b) @ a / np.linalg.norm(a), b / np.linalg.norm(b))
    poses = np.zeros((2, 1, 3), np.float32)
    poses[1, 0, 0] = 1.0
    assert np.allclose(
        resample_axis_angle(poses, np.array([0.0, 1.0]), np.array([-1, 0.25, 2]))[:, 0, 0], [0, 0.25, 1], atol=1e-5
    )


def test_skinning_gives_gradients_whoever_asked_for_it_first(body):
    _skinning.cache_clear()
    still = Motion(np.zeros((1, 55, 3), np.float32), np.zeros((1, 52), np.float32), np.zeros((1, 3), np.float32), 25.0)
    body.posed(still, np.zeros(body.betas, np.float32))
    betas, poses = torch.zeros(body.betas, requires_grad=True), torch.full((1, 55, 3), 0.1, requires_grad=True)
    piece = body.skinning.of(np.array([5, 900]))
    piece(poses, torch.zeros(1, 52), betas, torch.zeros(1, 3)).vertices.sum().backward()
    assert betas.grad.abs().max() > 0 and poses.grad[0, 0].abs().max() > 0


@pytest.fixture(scope="module")
def avatar_at_rest():
    return read_avatar(Library().find("ava"))


def test_camera_sees_its_target_in_the_middle_of_a_wide_picture():
    target = np.array([0.1, 0.5, 0.0], np.float32)
    move = CameraPath(
        kind="keyframes",
        points=(CameraKeyFrame(time=0, azimuth=-20), CameraKeyFrame(time=1, azimuth=20, elevation=10, distance=0.8)),
    )
    way = camera.angles_along(move, 26, 25.0)
    view = camera.look_at(way.azimuth, way.elevation, way.distance, target, (90, 160))
    for t in (0, 12, 25):
        pixel = camera.project(target[None], view.intrinsics[t], view.extrinsics[t])[0]
        assert np.allclose(pixel[:2], [80, 45], atol=1e-3)
    assert view.azimuth[0] == -20 and view.azimuth[-1] == pytest.approx(20) and (np.diff(view.azimuth) >= 0).all()
    left_hand = camera.project(target[None] + [0.3, 0, 0], view.intrinsics[0], view.extrinsics[0])[0]
    assert left_hand[0] > 80  # the person's left is the picture's right
    orbit = camera.angles_along(CameraPath(kind="orbit", swing=10, period=1), 25, 25.0)
    assert np.abs(orbit.azimuth).max() <= 10 and orbit.azimuth.max() > 9


@pytest.mark.parametrize("azimuths", [(-12, 10), (0, 30, 10), (-40, -40, 45, 0)])
def test_key_frames_begin_and_end_gently_and_never_overshoot(azimuths):
    points = tuple(CameraKeyFrame(time=1 + k, azimuth=a) for k, a in enumerate(azimuths))
    way = camera.angles_along(CameraPath(kind="keyframes", points=points), 50 * (len(azimuths) + 1), 50.0).azimuth
    assert way[:50].tolist() == [azimuths[0]] * 50 and way[-1] == pytest.approx(azimuths[-1])
    assert way.min() >= min(azimuths) - 1e-9 and way.max() <= max(azimuths) + 1e-9
    speed = np.diff(way) * 50
    assert (
        np.abs(np.diff(speed)).max() < 0.15 * np.abs(speed).max()
    )  # degrees a second, from frame to frame: a straight line jumps by all of it


def test_zoom_enlarges_and_rise_lifts_the_frame(avatar_at_rest):
    plain, near, high = (
        camera.avatar_camera(avatar_at_rest, CameraPath(**move), 1, 25.0, (90, 160))
        for move in ({}, {"zoom": 2}, {"rise": 0.25})
    )
    point = avatar_at_rest.target + np.array([0.1, 0.05, 0], np.float32)
    a, b, c = (camera.project(point[None], v.intrinsics[0], v.extrinsics[0])[0] for v in (plain, near, high))
    assert np.allclose(b[:2] - (80, 45), 2 * (a[:2] - (80, 45)), atol=1e-3)
    assert np.allclose(c[:2] - a[:2], [0, 0.25 * 90], atol=1e-3)


def test_two_eyes_agree_on_the_screen_and_part_before_and_behind_it(avatar_at_rest):
    view, target = (
        camera.avatar_camera(avatar_at_rest, CameraPath(azimuth=15), 2, 25.0, (90, 160)),
        avatar_at_rest.target,
    )
    left, right = camera.stereo_pair(view, 63.0, target)
    toward = view.extrinsics[0, 2, :3]  # the viewing direction
    shifts = []
    for ahead in (-0.3, 0.0, 0.5):
        seen = [
            camera.project((target + ahead * toward)[None], eye.intrinsics[1], eye.extrinsics[1])[0]
            for eye in (left, right)
        ]
        assert seen[0][1] == pytest.approx(seen[1][1], abs=1e-3)
        shifts.append(seen[0][0] - seen[1][0])
    assert (
        shifts[0] > 0.5 and abs(shifts[1]) < 1e-2 and shifts[2] < -0.5
    )  # nearer things lie farther right for the left eye
    centres = [-eye.extrinsics[0, :3, :3].T @ eye.extrinsics[0, :3, 3] for eye in (left, right)]
    assert np.linalg.norm(centres[1] - centres[0]) == pytest.approx(0.063, rel=1e-3)


def test_rasteriser_against_a_plane():
    # A square of two triangles, tilted in depth: x = depth, so perspective-correct interpolation gives back depth exactly.
    world = np.array([[-1, -1, 2], [1, -1, 4], [1, 1, 4], [-1, 1, 2]], np.float32)
    pixels = np.stack([world[:, 0] / world[:, 2] * 40 + 32, world[:, 1] / world[:, 2] * 40 + 24, world[:, 2]], 1)
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    picture = rasterize(pixels, faces, (48, 64))
    hit = picture.face >= 0
    rows, columns = np.nonzero(hit)
    x_over_z = (columns + 0.5 - 32) / 40  # on the plane z = x + 3
    assert hit.sum() > 400 and np.allclose(picture.depth[hit], 3 / (1 - x_over_z), rtol=1e-4)
    assert np.allclose(picture.interpolate(faces, world)[hit][:, 2], picture.depth[hit], rtol=1e-4)
    assert np.allclose(picture.bary[hit].sum(1), 1, atol=1e-4)


def test_nearest_triangle_wins():
    near = np.array([[0, 0, 1], [20, 0, 1], [0, 20, 1]], np.float32)
    far = near + [0, 0, 1]
    faces = np.array([[0, 1, 2], [3, 4, 5]], np.int32)
    for stacked, winner in ((np.concatenate([near, far]), 0), (np.concatenate([far, near]), 1)):
        assert set(np.unique(rasterize(stacked, faces, (16, 16)).face)) == {-1, winner}
    assert np.allclose(vertex_normals(near, faces[:1])[0], [0, 0, 1])
