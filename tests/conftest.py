"""Shared fixtures: the real classes at tiny size, trained for nothing, in a folder of their own."""

from __future__ import annotations

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch

from flows.produce import produce
from stereotalker.audio.encoder import EncoderConfig, SpeechEncoder
from stereotalker.audio.speak import Voice
from stereotalker.audio.speech import from_script
from stereotalker.body.model import Body
from stereotalker.control.masks import MaskConfig, MaskPredictor
from stereotalker.home import Home
from stereotalker.models import Models, read_body, weights_file
from stereotalker.motion.denoiser import MotionConfig, MotionDenoiser
from stereotalker.motion.performances import perform, set_statistics
from stereotalker.params import ROOT, Params, load_params
from stereotalker.people.acting import STYLES, act
from stereotalker.records import Motion, Speech
from stereotalker.render.denoiser import DenoiserConfig, RenderDenoiser
from stereotalker.weights import save_weights

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


@pytest.fixture(scope="session")
def tiny_models(tiny_params, speech, tmp_path_factory) -> Models:
    """Tiny models with random weights; the motion model's statistics are real, so that its people stand in the picture."""
    torch.manual_seed(0)
    p, folder = tiny_params, tmp_path_factory.mktemp("weights")
    encoder = SpeechEncoder(EncoderConfig(p.audio.pretrained, p.audio.hidden, p.audio.layers, p.audio.convolution))
    motion = MotionDenoiser(MotionConfig(encoder.features, p.motion.window, p.motion.hidden, p.motion.layers, p.motion.body, p.motion.lora_rank, p.motion.language_model))
    set_statistics(motion, [perform([speech], encoder.eval(), p.motion.fps, k) for k in range(2)])
    r = p.render
    render = RenderDenoiser(DenoiserConfig(r.patch, tuple(r.channels), r.heads, r.reference_width, r.view_experts))
    with torch.no_grad():
        motion.body_out.weight.mul_(0.1)
        for name, weight in motion.named_parameters():
            if "modulate.weight" in name:  # zero before training: no knob would be heard
                weight.normal_(0, 0.02)
        render.net.conv_out.weight.normal_(0, 0.02)
    save_weights(encoder, weights_file("audio", folder))
    save_weights(motion, weights_file("motion", folder))
    save_weights(MaskPredictor(MaskConfig(tuple(p.masks.channels), r.patch)), weights_file("masks", folder))
    save_weights(render, weights_file("render", folder))
    return Models(p, folder)


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def run(tmp_path, tiny_models, home):
    def go(path, out="out", executor="inline", home=home, only_failed=False, **changes):
        params = tiny_models.params.with_produce(changes)
        return produce(path, tmp_path / out, params, home, executor, weights=tiny_models.folder, only_failed=only_failed)

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
