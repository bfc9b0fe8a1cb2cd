"""The body model against the smplx package, rotations, cameras and the rasterizer."""

from concurrent.futures import ThreadPoolExecutor

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


def test_the_native_reader_poses_as_the_smplx_package(tiny_params, body):
    native = load_body(resolve(tiny_params.body.file), "native", tiny_params.body.betas)
    betas = np.random.default_rng(1).normal(size=tiny_params.body.betas).astype(np.float32)
    surface = np.random.default_rng(2).normal(0, 0.01, body.template.shape).astype(np.float16)
    assert np.abs(body.pose(motion(3, 0), betas, surface) - native.pose(motion(3, 0), betas, surface)).max() < 1e-5


def test_two_threads_may_pose_surfaces_of_their_own(body):
    betas = np.zeros(body.betas, np.float32)
    surfaces = [np.full(body.template.shape, shift, np.float16) for shift in (0.0, 1.0)]
    alone = [body.pose(motion(20, 0), betas, surface) for surface in surfaces]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda k: body.pose(motion(20, 0), betas, surfaces[k % 2]), range(12)))
    assert all(np.allclose(posed, alone[k % 2], atol=1e-4) for k, posed in enumerate(together))


def test_the_rest_pose_is_the_t_pose_of_an_adult(body):
    joints = body.template[body.part == 5]
    assert len(joints) == len(JOINTS)
    left, right = joints[JOINT["left_wrist"]], joints[JOINT["right_wrist"]]
    assert left[0] > 0.6 and np.allclose(left * [-1, 1, 1], right, atol=1e-3)
    assert abs(left[1] - joints[JOINT["left_shoulder"], 1]) < 0.01
    assert 1.5 < np.ptp(body.template[body.part == 0, 1]) < 1.95


def test_the_smplx_package_reads_the_body_file(body):
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


def test_the_jaw_joint_opens_the_lips_as_the_blend_shape_does(body):
    open_jaw, action = motion(1), motion(1)
    open_jaw.poses[0, JOINT["jaw"], 0] = 0.32
    action.expression[0, ACTION["jawOpen"]] = 1.0
    assert body.lip_aperture(motion(1))[0] == pytest.approx(0, abs=1e-3)
    assert (
        body.lip_aperture(open_jaw)[0] == pytest.approx(body.lip_aperture(action)[0], rel=0.01)
        and body.lip_aperture(open_jaw)[0] > 20
    )


def test_a_missing_body_file_is_refused_with_its_setting(tmp_path):
    with pytest.raises(UserError, match="body.file"):
        load_body(tmp_path / "SMPLX_NEUTRAL.npz")


def test_rotations_are_orthonormal_and_interpolated_along_one_axis():
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


def test_skinning_gives_gradients_after_a_use_in_inference_mode(body):
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


def test_cameras_keep_their_target_in_the_middle_of_a_wide_picture():
    target = np.array([0.1, 0.5, 0.0], np.float32)
    move = CameraPath(
        kind="keyframes",
        points=(CameraKeyFrame(time=0, azimuth=-20), CameraKeyFrame(time=1, azimuth=20, elevation=10, distance=0.8)),
    )
    angles = camera.angles_along(move, 26, 25.0)
    view = camera.look_at(angles.azimuth, angles.elevation, angles.distance, target, (90, 160))
    for t in (0, 12, 25):
        pixel = camera.project(target[None], view.intrinsics[t], view.extrinsics[t])[0]
        assert np.allclose(pixel[:2], [80, 45], atol=1e-3)
    assert view.azimuth[0] == -20 and view.azimuth[-1] == pytest.approx(20) and (np.diff(view.azimuth) >= 0).all()
    left_hand = camera.project(target[None] + [0.3, 0, 0], view.intrinsics[0], view.extrinsics[0])[0]
    assert left_hand[0] > 80  # The person's left is on the right of the picture.
    orbit = camera.angles_along(CameraPath(kind="orbit", swing=10, period=1), 25, 25.0)
    assert np.abs(orbit.azimuth).max() <= 10 and orbit.azimuth.max() > 9


@pytest.mark.parametrize("azimuths", [(-12, 10), (0, 30, 10), (-40, -40, 45, 0)])
def test_key_frames_start_and_end_smoothly_and_never_overshoot(azimuths):
    points = tuple(CameraKeyFrame(time=1 + k, azimuth=a) for k, a in enumerate(azimuths))
    azimuth = camera.angles_along(CameraPath(kind="keyframes", points=points), 50 * (len(azimuths) + 1), 50.0).azimuth
    assert azimuth[:50].tolist() == [azimuths[0]] * 50 and azimuth[-1] == pytest.approx(azimuths[-1])
    assert azimuth.min() >= min(azimuths) - 1e-9 and azimuth.max() <= max(azimuths) + 1e-9
    speed = np.diff(azimuth) * 50
    # In degrees a second. On a straight line the speed would jump by all of it from one frame to the next.
    assert np.abs(np.diff(speed)).max() < 0.15 * np.abs(speed).max()


def test_zoom_enlarges_and_rise_shifts_the_picture(avatar_at_rest):
    plain, near, high = (
        camera.avatar_camera(avatar_at_rest, CameraPath(**move), 1, 25.0, (90, 160))
        for move in ({}, {"zoom": 2}, {"rise": 0.25})
    )
    point = avatar_at_rest.target + np.array([0.1, 0.05, 0], np.float32)
    a, b, c = (camera.project(point[None], v.intrinsics[0], v.extrinsics[0])[0] for v in (plain, near, high))
    assert np.allclose(b[:2] - (80, 45), 2 * (a[:2] - (80, 45)), atol=1e-3)
    assert np.allclose(c[:2] - a[:2], [0, 0.25 * 90], atol=1e-3)


def test_stereo_views_agree_at_the_target_and_differ_before_and_behind_it(avatar_at_rest):
    view, target = (
        camera.avatar_camera(avatar_at_rest, CameraPath(azimuth=15), 2, 25.0, (90, 160)),
        avatar_at_rest.target,
    )
    left, right = camera.stereo_pair(view, 63.0, target)
    direction = view.extrinsics[0, 2, :3]  # the viewing direction
    shifts = []
    for distance in (-0.3, 0.0, 0.5):
        pixels = [
            camera.project((target + distance * direction)[None], eye.intrinsics[1], eye.extrinsics[1])[0]
            for eye in (left, right)
        ]
        assert pixels[0][1] == pytest.approx(pixels[1][1], abs=1e-3)
        shifts.append(pixels[0][0] - pixels[1][0])
    # Nearer points lie farther right for the left eye.
    assert shifts[0] > 0.5 and abs(shifts[1]) < 1e-2 and shifts[2] < -0.5
    centres = [-eye.extrinsics[0, :3, :3].T @ eye.extrinsics[0, :3, 3] for eye in (left, right)]
    assert np.linalg.norm(centres[1] - centres[0]) == pytest.approx(0.063, rel=1e-3)


def test_the_rasterizer_interpolates_a_tilted_plane_exactly():
    # A square of two triangles, tilted so that z = x + 3: perspective-correct interpolation gives the depth exactly.
    world = np.array([[-1, -1, 2], [1, -1, 4], [1, 1, 4], [-1, 1, 2]], np.float32)
    pixels = np.stack([world[:, 0] / world[:, 2] * 40 + 32, world[:, 1] / world[:, 2] * 40 + 24, world[:, 2]], 1)
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    fragments = rasterize(pixels, faces, (48, 64))
    covered = fragments.face >= 0
    rows, columns = np.nonzero(covered)
    x_over_z = (columns + 0.5 - 32) / 40  # on the plane z = x + 3
    assert covered.sum() > 400 and np.allclose(fragments.depth[covered], 3 / (1 - x_over_z), rtol=1e-4)
    assert np.allclose(fragments.interpolate(faces, world)[covered][:, 2], fragments.depth[covered], rtol=1e-4)
    assert np.allclose(fragments.bary[covered].sum(1), 1, atol=1e-4)


def test_the_nearest_triangle_is_drawn():
    near = np.array([[0, 0, 1], [20, 0, 1], [0, 20, 1]], np.float32)
    far = near + [0, 0, 1]
    faces = np.array([[0, 1, 2], [3, 4, 5]], np.int32)
    for stacked, winner in ((np.concatenate([near, far]), 0), (np.concatenate([far, near]), 1)):
        assert set(np.unique(rasterize(stacked, faces, (16, 16)).face)) == {-1, winner}
    assert np.allclose(vertex_normals(near, faces[:1])[0], [0, 0, 1])
