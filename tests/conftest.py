"""Shared fixtures: the real classes at tiny size, with random weights, each in a temporary folder."""

from __future__ import annotations

from stereotalker.runtime.environment import set_library_defaults

# The settings must be made before torch and the other libraries are imported, as the command line does.
set_library_defaults()

# isort: split
import json
import os
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from avatar_helpers import draw_body
from batch_helpers import copy_home, fill_home
from PIL import Image
from scipy.spatial.transform import Rotation

from stereotalker.acting.reference_acting import STYLES, act, resting_pose
from stereotalker.audio.encoder import EncoderConfig, SpeechEncoder
from stereotalker.audio.speech import from_script
from stereotalker.audio.text_to_speech import Voice
from stereotalker.avatar.detector_calibration import read_calibration
from stereotalker.avatar.fit_portrait import fit_portrait
from stereotalker.avatar.fit_problem import hand_points, pose_point
from stereotalker.avatar.landmarks import POSE, Landmarks
from stereotalker.body.model import Body, read_body
from stereotalker.control.body_parts import hand_vertices
from stereotalker.control.masks import MaskConfig, MaskPredictor
from stereotalker.dataset.build import build_people
from stereotalker.dataset.speech_corpus import build_corpus
from stereotalker.flows.produce import produce
from stereotalker.geometry import camera
from stereotalker.geometry.rasterizer import Fragments, rasterize
from stereotalker.models import Models
from stereotalker.motion.denoiser import MotionConfig, MotionDenoiser
from stereotalker.params import ROOT, Params, load_params
from stereotalker.records import Avatar, Motion, Speech
from stereotalker.render.denoiser import DenoiserConfig, RenderDenoiser, ResnetFeedForward
from stereotalker.runtime.home import Home
from stereotalker.smplx_layout import JOINT, SIDES
from stereotalker.store.local import Store
from stereotalker.synthetic.actor import build_actor
from stereotalker.training.motion import make_example, set_statistics
from stereotalker.weights import save_weights, weights_file

# Height and width in px of the drawn portrait whose true shape, pose and camera are known. They differ on purpose.
SIZE = (512, 448)
REAL_DATA = Path(os.environ.get("STEREOTALKER_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def tiny_params(tmp_path_factory) -> Params:
    text = (ROOT / "params.yaml").read_text().replace("scale: mini", "scale: tiny")
    path = tmp_path_factory.mktemp("params") / "params.yaml"
    path.write_text(text)
    return load_params(path)


@pytest.fixture(scope="session")
def speech() -> Speech:
    return from_script("Maybe my mother bought a big brown umbrella.", Voice(), -20.0)


@pytest.fixture(scope="session")
def body(tiny_params) -> Body:
    return read_body(tiny_params.body)


@pytest.fixture(scope="session")
def motion(speech) -> Motion:
    """The reference acting of `speech` in a lively style."""
    return act(speech, STYLES[2], 3, 25.0)


def experts_after_convolutions(model: RenderDenoiser) -> list[ResnetFeedForward]:
    return [layer for layer in model.modules() if isinstance(layer, ResnetFeedForward)]


@pytest.fixture(scope="session")
def tiny_models(tiny_params, speech, tmp_path_factory) -> Models:
    """Tiny models with random weights.

    The statistics of the motion model are real, so that its people stand inside the picture.
    """
    torch.manual_seed(0)
    p, folder = tiny_params, tmp_path_factory.mktemp("weights")
    encoder = SpeechEncoder(EncoderConfig(p.audio.pretrained, p.audio.hidden, p.audio.layers, p.audio.convolution))
    motion = MotionDenoiser(
        MotionConfig(
            encoder.features,
            p.motion.window,
            p.motion.hidden,
            p.motion.layers,
            p.motion.body,
            p.motion.lora_rank,
            p.motion.language_model,
        )
    )
    set_statistics(motion, [make_example([speech], encoder.eval(), p.motion.fps, k) for k in range(2)])
    r = p.render
    render = RenderDenoiser(
        DenoiserConfig(r.pretrained, r.patch, tuple(r.channels), r.heads, r.reference_width, r.view_experts, r.experts)
    )
    with torch.no_grad():
        motion.body_out.weight.mul_(0.1)
        for name, weight in motion.named_parameters():
            # These weights are zero before training, and then no condition would change the motion.
            if "modulate.weight" in name:
                weight.normal_(0, 0.02)
        render.net.conv_out.weight.normal_(0, 0.02)
        for layer in experts_after_convolutions(render):
            layer.ff.shared.out.normal_(0, 0.02)
    save_weights(encoder, weights_file("audio", folder))
    save_weights(motion, weights_file("motion", folder))
    save_weights(MaskPredictor(MaskConfig(tuple(p.masks.channels), r.patch)), weights_file("masks", folder))
    save_weights(render, weights_file("render", folder))
    return Models(p, folder)


@pytest.fixture(scope="session")
def calibration():
    return read_calibration()


@pytest.fixture(scope="session")
def truth(body):
    """The person in the drawn portrait and the camera: (betas, poses, expression, K, E)."""
    rng = np.random.default_rng(3)
    betas = rng.normal(0, 0.4, body.betas).astype(np.float32)
    poses, expression = resting_pose(STYLES[2]).poses[0].copy(), np.zeros(52, np.float32)
    poses[JOINT["head"]] = [0.05, 0.15, -0.04]
    intrinsics = np.array([[1024, 0, SIZE[1] / 2], [0, 1024, SIZE[0] / 2], [0, 0, 1]], np.float32)
    turn = Rotation.from_euler("xyz", [-1, -6, 2], degrees=True).as_matrix() @ np.diag([1, -1, -1])
    extrinsics = np.eye(4, dtype=np.float32)
    extrinsics[:3, :3], extrinsics[:3, 3] = turn, -turn @ [-0.17, 0.78, 1.9]
    return betas, poses, expression, intrinsics, extrinsics


@pytest.fixture(scope="session")
def landmarks(truth, body, calibration) -> Landmarks:
    """What a perfect detector would find in the drawn portrait."""
    betas, poses, expression, K, E = truth
    parameters = [torch.from_numpy(a) for a in (poses[None], expression[None], betas, np.zeros((1, 3), np.float32))]
    skinned = body.skinning(*parameters)

    def project(points):
        return camera.project(np.asarray(points, np.float32), K, E)

    face = calibration.face_points(skinned.vertices[0].numpy(), body.faces)
    pose, world, visible = np.zeros((33, 2), np.float32), np.zeros((33, 3), np.float32), np.zeros(33, np.float32)
    camera_axes = np.diag([1, -1, -1]) @ E[:3, :3]
    for name in calibration.pose_points:
        for side in SIDES:
            point, row = pose_point(skinned, name, side, calibration).numpy(), POSE[f"{side}_{name}"]
            pose[row], world[row], visible[row] = project(point)[0, :2], (point @ camera_axes.T)[0], 1.0
    hands = {side: hand_points(skinned, side, calibration)[0].numpy() for side in SIDES}
    silhouette = rasterize(project(skinned.vertices[0].numpy()), body.faces, SIZE).face >= 0
    head = camera_axes @ skinned.joint_rotations[0, JOINT["head"]].numpy() @ np.linalg.inv(calibration.head_offset)
    return Landmarks(
        size=SIZE,
        faces=1,
        face=project(face)[:, :2],
        head=head.astype(np.float32),
        people=1,
        pose=pose,
        visible=visible,
        pose_world=world,
        hands={s: project(p)[:, :2] for s, p in hands.items()},
        hands_world={s: (p @ camera_axes.T).astype(np.float32) for s, p in hands.items()},
        person=silhouette.astype(np.float32),
    )


@pytest.fixture(scope="session")
def picture(landmarks) -> np.ndarray:
    """The drawn portrait, u8 [H, W, 3]: a gray wall and a person in a patterned suit, enough for masks and colors."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    wall = np.stack([120 + 0.1 * rows, 130 + 0 * rows, 150 - 0.1 * columns], -1)
    suit = np.stack([200 + 20 * np.sin(rows / 9), 90 + 10 * np.sin(columns / 7), 70 + 0 * rows], -1)
    return np.clip(
        np.where(landmarks.person[..., None] > 0.5, suit, wall) + rng.normal(0, 2, (*SIZE, 3)), 0, 255
    ).astype(np.uint8)


@pytest.fixture(scope="session")
def fitted(landmarks, picture, body, calibration):
    """The avatar fitted to the drawn portrait, with the residuals of the fit."""
    return fit_portrait(picture, "somebody", lambda picture: landmarks, body, calibration)


class PortraitBody(NamedTuple):
    """The fitted avatar; its body as the portrait shows it; and how far along the arm each pixel lies.

    arm_distance is f32 [H, W] in m from the middle of the body at rest, and 0 off the arms.
    """

    avatar: Avatar
    raster: Fragments
    arm_distance: np.ndarray


@pytest.fixture(scope="session")
def portrait_body(fitted, body) -> PortraitBody:
    raster = draw_body(fitted.avatar, body)
    arm = np.abs(body.template[:, 0]) * ~hand_vertices(body) * (np.abs(body.template[:, 0]) > 0.2)
    arm_distance = raster.interpolate(body.faces, arm[:, None].astype(np.float32))[..., 0]
    return PortraitBody(fitted.avatar, raster, arm_distance)


@pytest.fixture(scope="session")
def actor(body):
    """A synthetic person with short parted hair, beard, glasses and sweater, and a portrait of 96 x 96 px."""
    return build_actor(19, body, 96, 1)


@pytest.fixture(scope="session")
def avatar(actor) -> Avatar:
    return actor.avatar


@pytest.fixture(scope="session")
def fit_store(tmp_path_factory) -> Store:
    """A store that several tests share, so that the same portrait is fitted only once."""
    return Store(tmp_path_factory.mktemp("fit-store"))


@pytest.fixture
def portrait_files(landmarks, picture, tmp_path) -> tuple[Path, Path]:
    """The paths of the drawn portrait and of a file with its keypoints."""
    Image.fromarray(picture).save(tmp_path / "me.png")
    Image.fromarray((landmarks.person * 255).astype(np.uint8)).save(tmp_path / "mask.png")
    points = {
        "face": landmarks.face.tolist(),
        "person": "mask.png",
        "pose": landmarks.pose.tolist(),
        "visible": landmarks.visible.tolist(),
        "hands": {s: p.tolist() for s, p in landmarks.hands.items()},
    }
    (tmp_path / "me.json").write_text(json.dumps(points))
    return tmp_path / "me.png", tmp_path / "me.json"


@pytest.fixture(scope="session")
def corpus(tiny_params, tmp_path_factory) -> Path:
    """The speech corpus of the pipeline at scale tiny. Tests that use it or `people` belong to the group "dataset"."""
    folder = tmp_path_factory.mktemp("data") / "speech"
    build_corpus(folder, tiny_params.speech, tiny_params.audio, processes=2)
    return folder


@pytest.fixture(scope="session")
def people(tiny_params, corpus) -> Path:
    """The shards of synthetic people of the pipeline at scale tiny, beside the corpus."""
    folder = corpus.parent / "people"
    build_people(folder, corpus.parent / "avatars", tiny_params.body, tiny_params.people, corpus, processes=2)
    return folder


@pytest.fixture(scope="session")
def home_template(tmp_path_factory) -> Home:
    """A home with MLflow's tables and the small avatar, to be copied: a new database takes a second."""
    home = Home(tmp_path_factory.mktemp("home-template"))
    fill_home(home)
    return home


@pytest.fixture
def new_home(home_template, tmp_path) -> Callable[[str], Home]:
    """A function that creates a home by name, ready for a batch."""
    return lambda name: copy_home(home_template, tmp_path / name)


@pytest.fixture
def home(new_home) -> Home:
    return new_home("home")


@pytest.fixture
def run_batch(tmp_path, tiny_models, home):
    """A function that runs a batch in this process with the tiny models; other keywords change params.produce."""

    def run(path, out="out", executor="inline", home=home, again=None, **changes):
        params = tiny_models.params.with_produce(changes)
        return produce(path, tmp_path / out, params, home, executor, weights=tiny_models.folder, again=again)

    return run


@pytest.fixture
def listener():
    """A web server on loopback: its port, and the list of JSON messages that it has received."""
    received = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port, received
    server.shutdown()


@pytest.fixture
def real_speech() -> Path:
    """The folder of real recordings. The test is skipped where there is none."""
    if not (REAL_DATA / "speech" / "transcripts.csv").is_file():
        pytest.skip(f"real recordings not found at {REAL_DATA}; set STEREOTALKER_DATA to the folder that holds speech/")
    return REAL_DATA / "speech"


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def s3():
    """A client of the server. fsspec finds the server through the environment, as it would find that of a studio."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    client = boto3.client("s3")
    client.create_bucket(Bucket="studio")
    yield client
    server.stop()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
