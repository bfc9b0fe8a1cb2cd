"""Shared fixtures: the real classes at tiny size, trained for nothing, in a folder of their own."""

from __future__ import annotations

from stereotalker.runtime.environment import set_library_defaults

set_library_defaults()  # before torch and the others are imported, as the command line does

# isort: split
import json
import os
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from batch_helpers import copy_home, fill_home
from PIL import Image
from scipy.spatial.transform import Rotation

from stereotalker.acting.reference_acting import STYLES, act, resting_pose
from stereotalker.audio.encoder import EncoderConfig, SpeechEncoder
from stereotalker.audio.speech import from_script
from stereotalker.audio.text_to_speech import Voice
from stereotalker.avatar.body_fit import hand_points, pose_point
from stereotalker.avatar.detector_calibration import read_calibration
from stereotalker.avatar.fit_portrait import fit_portrait
from stereotalker.avatar.landmarks import POSE, Landmarks
from stereotalker.body.model import Body
from stereotalker.control.masks import MaskConfig, MaskPredictor
from stereotalker.dataset.build import build_people
from stereotalker.dataset.speech_corpus import build_corpus
from stereotalker.flows.produce import produce
from stereotalker.geometry import camera
from stereotalker.geometry.rasterizer import rasterize
from stereotalker.models import Models, read_body, weights_file
from stereotalker.motion.denoiser import MotionConfig, MotionDenoiser
from stereotalker.params import ROOT, Params, load_params
from stereotalker.records import Motion, Speech
from stereotalker.render.denoiser import DenoiserConfig, RenderDenoiser, ResnetFeedForward
from stereotalker.runtime.home import Home
from stereotalker.smplx_layout import JOINT, SIDES
from stereotalker.store.local import Store
from stereotalker.training.motion import make_example, set_statistics
from stereotalker.weights import save_weights

SIZE = (512, 448)  # of the portrait that the avatars' tests know the truth of: higher than wide
REAL_DATA = Path(os.environ.get("STEREOTALKER_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def tiny_params(tmp_path_factory) -> Params:
    text = (ROOT / "params.yaml").read_text().replace("scale: mini", "scale: tiny")
    path = tmp_path_factory.mktemp("params") / "params.yaml"
    path.write_text(text)
    return load_params(path)


@pytest.fixture(scope="session")
def speech() -> Speech:
    return from_script("Maybe my mother bought a big brown umbrella.", Voice(), -20.0)[0]


@pytest.fixture(scope="session")
def body(tiny_params) -> Body:
    return read_body(tiny_params.body)


@pytest.fixture(scope="session")
def motion(speech) -> Motion:
    """The reference acting of `speech`, lively."""
    return act(speech, STYLES[2], 3, 25.0)


def experts_after_convolutions(model: RenderDenoiser) -> list[ResnetFeedForward]:
    return [layer for layer in model.modules() if isinstance(layer, ResnetFeedForward)]


@pytest.fixture(scope="session")
def tiny_models(tiny_params, speech, tmp_path_factory) -> Models:
    """Tiny models with random weights; the motion model's statistics are real, so that its people stand in the picture."""
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
            if "modulate.weight" in name:  # zero before training: no knob would be heard
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
def known():
    return read_calibration()


@pytest.fixture(scope="session")
def truth(body):
    """Somebody of known shape and pose before a known camera, and what a perfect detector would say of the picture."""
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
def marks(truth, body, known) -> Landmarks:
    betas, poses, expression, K, E = truth
    given = [torch.from_numpy(a) for a in (poses[None], expression[None], betas, np.zeros((1, 3), np.float32))]
    skinned = body.skinning(*given)

    def project(points):
        return camera.project(np.asarray(points, np.float32), K, E)

    face = known.face_points(skinned.vertices[0].numpy(), body.faces)
    pose, world, visible = np.zeros((33, 2), np.float32), np.zeros((33, 3), np.float32), np.zeros(33, np.float32)
    flip = np.diag([1, -1, -1]) @ E[:3, :3]
    for name in known.pose_points:
        for side in SIDES:
            place, row = pose_point(skinned, name, side, known).numpy(), POSE[f"{side}_{name}"]
            pose[row], world[row], visible[row] = project(place)[0, :2], (place @ flip.T)[0], 1.0
    hands = {side: hand_points(skinned, side, known)[0].numpy() for side in SIDES}
    covered = rasterize(project(skinned.vertices[0].numpy()), body.faces, SIZE).face >= 0
    return Landmarks(
        size=SIZE, faces=1, face=project(face)[:, :2], head=(flip @ skinned.joint_rotations[0, JOINT["head"]].numpy() @ np.linalg.inv(known.head_offset)).astype(np.float32),
        people=1, pose=pose, visible=visible, pose_world=world, hands={s: project(p)[:, :2] for s, p in hands.items()},
        hands_world={s: (p @ flip.T).astype(np.float32) for s, p in hands.items()}, person=covered.astype(np.float32),
    )  # fmt: skip


@pytest.fixture(scope="session")
def picture(marks) -> np.ndarray:
    """A grey wall and somebody in a patterned suit: enough for masks and colours."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    wall = np.stack([120 + 0.1 * rows, 130 + 0 * rows, 150 - 0.1 * columns], -1)
    suit = np.stack([200 + 20 * np.sin(rows / 9), 90 + 10 * np.sin(columns / 7), 70 + 0 * rows], -1)
    return np.clip(np.where(marks.person[..., None] > 0.5, suit, wall) + rng.normal(0, 2, (*SIZE, 3)), 0, 255).astype(
        np.uint8
    )


@pytest.fixture(scope="session")
def made(marks, picture, body, known):
    return fit_portrait(picture, "somebody", lambda picture: marks, body, known)


@pytest.fixture(scope="session")
def fits(tmp_path_factory) -> Store:
    """A store that the tests share: the same files are fitted once."""
    return Store(tmp_path_factory.mktemp("fits"))


@pytest.fixture
def files(marks, picture, tmp_path) -> tuple[Path, Path]:
    """A portrait and its key points as files."""
    Image.fromarray(picture).save(tmp_path / "me.png")
    Image.fromarray((marks.person * 255).astype(np.uint8)).save(tmp_path / "mask.png")
    points = {
        "face": marks.face.tolist(),
        "person": "mask.png",
        "pose": marks.pose.tolist(),
        "visible": marks.visible.tolist(),
        "hands": {s: p.tolist() for s, p in marks.hands.items()},
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
    """MLflow's migrated tables and the small avatar, made once: a fresh database takes a second of migrations."""
    home = Home(tmp_path_factory.mktemp("home-template"))
    fill_home(home)
    return home


@pytest.fixture
def new_home(home_template, tmp_path) -> Callable[[str], Home]:
    """Makes homes by name, each ready for a batch."""
    return lambda name: copy_home(home_template, tmp_path / name)


@pytest.fixture
def home(new_home) -> Home:
    return new_home("home")


@pytest.fixture
def run(tmp_path, tiny_models, home):
    def go(path, out="out", executor="inline", home=home, only_failed=False, **changes):
        params = tiny_models.params.with_produce(changes)
        return produce(
            path, tmp_path / out, params, home, executor, weights=tiny_models.folder, only_failed=only_failed
        )

    return go


@pytest.fixture
def listener():
    """(port, messages that came)."""
    came = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            came.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port, came
    server.shutdown()


@pytest.fixture
def real_speech() -> Path:
    """A folder of real recordings; the test is skipped where there is none."""
    if not (REAL_DATA / "speech" / "transcripts.csv").is_file():
        pytest.skip(f"real recordings not found at {REAL_DATA}; set STEREOTALKER_DATA to the folder that holds speech/")
    return REAL_DATA / "speech"


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)
