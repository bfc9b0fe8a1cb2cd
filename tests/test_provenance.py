"""Content credentials are signed and verified by the real C2PA library, with certificates that the tests create."""

import stat

import numpy as np
import pytest
from batch_helpers import cli

from stereotalker.errors import UserError
from stereotalker.media import audio_files
from stereotalker.media.content_credentials import SOURCE_TYPE, open_signer, verify
from stereotalker.media.video_files import probe, read_frames, write_video
from stereotalker.params import ROOT, ProvenanceParams, load_params

SIGNING = ProvenanceParams(sign=True, certificate=None, key=None)
CLAIMS = {"avatar": "ava", "consent": "synthetic", "models": {"render": "abc"}}


@pytest.fixture
def video(tmp_path):
    (tmp_path / "s.wav").write_bytes(audio_files.wav_bytes(np.zeros((2, 24000), np.float32)))
    frames = np.random.default_rng(0).integers(0, 255, (12, 64, 64, 3)).astype(np.uint8)
    write_video(
        tmp_path / "v.mp4",
        [frames],
        (64, 64),
        25.0,
        tmp_path / "s.wav",
        0.48,
        load_params(ROOT / "params.yaml").video,
        "t",
    )
    return tmp_path / "v.mp4"


def test_a_signed_video_is_verified_with_its_claims(video, tmp_path):
    signer = open_signer(SIGNING, tmp_path / "keys")
    signer.sign(video, tmp_path / "signed.mp4", "t", CLAIMS)
    result = verify(tmp_path / "signed.mp4")
    assert (
        result.good
        and result.state == "Valid"
        and result.source_type == SOURCE_TYPE
        and result.claims == CLAIMS
        and not result.faults
    )
    assert (
        np.array_equal(read_frames(video), read_frames(tmp_path / "signed.mp4"))
        and probe(tmp_path / "signed.mp4").frames == 12
    )
    key = tmp_path / "keys" / "local-key.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert open_signer(SIGNING, tmp_path / "keys") == signer and open_signer(SIGNING, tmp_path / "others") != signer


def test_a_changed_byte_is_detected(video, tmp_path, home):
    signed = tmp_path / "signed.mp4"
    open_signer(SIGNING, tmp_path / "keys").sign(video, signed, "t", CLAIMS)
    data = bytearray(signed.read_bytes())
    data[-200] ^= 1
    signed.write_bytes(data)
    result = verify(signed)
    assert not result.good and any("mismatch" in fault for fault in result.faults)
    answer = cli("verify", signed, home=home)
    assert answer.returncode == 1 and "Invalid" in answer.stdout


def test_the_certificate_of_a_studio_is_used(video, tmp_path):
    open_signer(SIGNING, tmp_path / "studio")
    studio = ProvenanceParams(
        sign=True, certificate=tmp_path / "studio" / "local-chain.pem", key=tmp_path / "studio" / "local-key.pem"
    )
    open_signer(studio, tmp_path / "unused").sign(video, tmp_path / "signed.mp4", "t", CLAIMS)
    assert verify(tmp_path / "signed.mp4").good and not (tmp_path / "unused").exists()
    open_signer(SIGNING, tmp_path / "another")
    with pytest.raises(UserError, match="is not the key of"):
        open_signer(studio.model_copy(update={"key": tmp_path / "another" / "local-key.pem"}), tmp_path)
    with pytest.raises(UserError, match="cannot be used"):
        open_signer(studio.model_copy(update={"key": tmp_path / "none.pem"}), tmp_path)
    with pytest.raises(UserError, match="give certificate and key"):
        open_signer(studio.model_copy(update={"key": None}), tmp_path)


def test_videos_are_signed_unless_params_say_otherwise(tmp_path):
    assert load_params(ROOT / "params.yaml").provenance.sign
    assert open_signer(SIGNING.model_copy(update={"sign": False}), tmp_path) is None


def test_files_without_credentials_are_refused(video, tmp_path):
    with pytest.raises(UserError, match="holds no content credentials"):
        verify(video)
    (tmp_path / "x.mp4").write_text("no video")
    with pytest.raises(UserError, match="cannot be read"):
        verify(tmp_path / "x.mp4")
    with pytest.raises(UserError, match="not found"):
        verify(tmp_path / "nowhere.mp4")
