"""The quality gate on real files: the real encoder writes pictures and sound; faces are of a shipped avatar."""

import subprocess

import cv2
import numpy as np
import pytest
from scipy.ndimage import uniform_filter1d

from stereotalker.avatar.library import SHIPPED, read_avatar
from stereotalker.geometry.camera_path import CameraKeyFrame, CameraPath
from stereotalker.media import audio_files
from stereotalker.media.audio_files import FFMPEG
from stereotalker.media.faces import resize_for_detection
from stereotalker.media.video_files import write_video
from stereotalker.motion.coverage import Unseen
from stereotalker.params import ROOT, load_params
from stereotalker.production import quality
from stereotalker.production.lip_sync import lip_lag
from stereotalker.production.manifest import Clip, Retake
from stereotalker.production.quality import ClipInputs, Verdict, examine, judge

pytestmark = pytest.mark.integration

LIMITS = load_params(ROOT / "params.yaml").quality
FPS, T = 25.0, 120
CLIP = Clip(id="a", avatar="ava", script="x", width=256, height=256, fps=FPS)


@pytest.fixture(scope="module")
def talking_clip(tmp_path_factory):
    """A portrait whose mouth opens with an aperture, and a sound: (frames u8 [T, H, W, 3], aperture, WAV file)."""
    rng = np.random.default_rng(0)
    portrait = read_avatar(SHIPPED / "ava.safetensors").portrait[::2, ::2]
    [box] = [quality._face(resize_for_detection(portrait[..., 1].copy()))]
    x, y, side = box
    aperture = np.clip(np.convolve(rng.standard_normal(T + 4), np.ones(5) / 5, "valid"), 0, None).astype(np.float32)
    frames = np.repeat(portrait[None], T, 0)
    for t in range(T):
        low, high = int(y + 0.78 * side), int(y + 0.78 * side + 0.12 * side * aperture[t] / aperture.max())
        frames[t, low:high, int(x + 0.4 * side) : int(x + 0.6 * side)] = 20
    frames = np.clip(frames.astype(int) + rng.integers(-3, 4, frames.shape), 0, 255).astype(np.uint8)
    # The noise has low frequencies only, because AAC does not keep the high ones.
    noise = uniform_filter1d(rng.standard_normal((1, round(T / FPS * audio_files.OUTPUT_RATE))), 48)
    noise = noise.repeat(2, 0).astype(np.float32)
    path = tmp_path_factory.mktemp("sound") / "sound.wav"
    raw = path.with_name("raw.wav")
    raw.write_bytes(audio_files.wav_bytes(noise / np.abs(noise).max()))
    audio_files.write_normalized(raw, -20.0, path)
    return frames, aperture, path


def driving(aperture, hands=0.1, arms=0.1) -> ClipInputs:
    return ClipInputs(aperture, -20.0, Unseen(hands, arms))


def judge_video(tmp_path, frames, aperture, sound, seconds=None):
    path = tmp_path / "clip.mp4"
    write_video(
        path,
        [frames],
        frames.shape[1:3],
        FPS,
        sound,
        seconds or len(frames) / FPS,
        load_params(ROOT / "params.yaml").video,
        "t",
    )
    return examine(path, sound, driving(aperture), CLIP, LIMITS).verdict


def test_a_good_clip_passes(talking_clip, tmp_path):
    frames, aperture, sound = talking_clip
    verdict = judge_video(tmp_path, frames, aperture, sound)
    assert verdict.verdict == "pass", verdict
    m = verdict.measures
    assert (
        m["faces"] == 1 and m["lip_lag_frames"] == 0 and m["lip_correlation"] > 0.8 and abs(m["audio_lag_frames"]) < 0.1
    )
    assert Verdict.from_json(verdict.to_json()) == verdict


@pytest.mark.parametrize(
    ("spoil", "verdict", "reason"),
    [
        (lambda f, a, w: (f[:-3], a, w), "fail", "117 frames, expected 120"),
        (lambda f, a, w: (np.concatenate([f, f[:6]]), a, w), "fail", "126 frames, expected 120"),
        (lambda f, a, w: (np.concatenate([f[:50], f[:1] * 0, f[51:]]), a, w), "fail", "a black frame"),
        (
            lambda f, a, w: (np.concatenate([f[:50], np.repeat(f[50:51], 40, 0), f[90:]]), a, w),
            "review",
            "stands still for 1.",
        ),
        (lambda f, a, w: (np.repeat(f[:1], T, 0), a, w), "fail", "stands still for 4.8 s"),
        (lambda f, a, w: (np.flip(f, 1).copy(), a, w), "fail", "a face in"),
        (lambda f, a, w: (np.concatenate([f[5:], f[:5]]), a, w), "fail", "the lips lag by -5.0 frames"),
        (lambda f, a, w: (np.concatenate([f[-5:], f[:-5]]), a, w), "fail", "the lips lag by +5.0 frames"),
        (lambda f, a, w: (blur_increasingly(f), a, w), "review", "sharpness falls"),
    ],
)
def test_faults_of_a_video_are_named(talking_clip, tmp_path, spoil, verdict, reason):
    result = judge_video(tmp_path, *spoil(*talking_clip))
    assert result.verdict == verdict and any(reason in line for line in result.reasons), result


def test_faces_are_required_only_of_cameras_in_front(talking_clip, tmp_path):
    frames, aperture, sound = talking_clip
    faceless = frames.copy()
    faceless[60:] = frames[60:, ::-1]  # An upside-down face is not detected, as a face from the side is not.
    file = tmp_path / "clip.mp4"
    write_video(file, [faceless], frames.shape[1:3], FPS, sound, T / FPS, load_params(ROOT / "params.yaml").video, "t")
    turned = CameraPath(
        kind="keyframes", points=(CameraKeyFrame(time=60 / FPS - 0.1), CameraKeyFrame(time=60 / FPS, azimuth=45))
    )
    for name, camera, retakes, reason in (
        ("still", CameraPath(), (), "a face in 50% of the frames"),
        ("turned", turned, (), None),
        ("retaken", CameraPath(), (Retake(start=60 / FPS, end=T / FPS, camera=CameraPath(azimuth=-45)),), None),
        ("aside", CameraPath(azimuth=30), (), "the camera shows no face from the front"),
        ("near", CameraPath(distance=0.5), (), "the camera shows no face from the front"),
    ):
        clip = CLIP.model_copy(update={"camera": camera, "retakes": retakes})
        reasons = [
            line for line in examine(file, sound, driving(aperture), clip, LIMITS).verdict.reasons if "face " in line
        ]
        assert len(reasons) == (reason is not None) and all(reason in line for line in reasons), (name, reasons)


def test_sharpness_is_compared_only_between_similar_views(talking_clip, tmp_path):
    frames, aperture, sound = talking_clip
    file = tmp_path / "clip.mp4"
    write_video(
        file,
        [blur_increasingly(frames)],
        frames.shape[1:3],
        FPS,
        sound,
        T / FPS,
        load_params(ROOT / "params.yaml").video,
        "t",
    )
    aside = CameraPath(kind="keyframes", points=(CameraKeyFrame(time=0), CameraKeyFrame(time=T / FPS, azimuth=15)))
    nearer = CameraPath(kind="keyframes", points=(CameraKeyFrame(time=0), CameraKeyFrame(time=T / FPS, distance=0.8)))
    for camera, compared in (
        (CameraPath(), True),
        (CameraPath(kind="orbit", swing=5), True),
        (aside, False),
        (nearer, False),
    ):
        verdict = examine(file, sound, driving(aperture), CLIP.model_copy(update={"camera": camera}), LIMITS).verdict
        assert np.isfinite(verdict.measures["sharpness_kept"]) == compared, camera
        assert any("sharpness falls" in line for line in verdict.reasons) == compared, camera


def blur_increasingly(frames):
    sigmas = np.linspace(0.1, 4, len(frames))
    return np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame, sigma in zip(frames, sigmas, strict=True)])


def test_late_and_soft_sound_is_named(talking_clip, tmp_path):
    frames, aperture, sound = talking_clip
    judge_video(tmp_path, frames, aperture, sound)
    for name, audio_filter, verdict, reason in (
        ("late", "adelay=200:all=1", "fail", "the sound lag by +5.0 frames"),
        ("soft", "volume=-9dB", "review", "-9."),
        ("mute", "volume=0", "review", "silent"),
    ):
        spoiled = tmp_path / f"{name}.mp4"
        subprocess.run(
            [
                FFMPEG,
                "-v",
                "error",
                "-i",
                tmp_path / "clip.mp4",
                "-c:v",
                "copy",
                "-af",
                f"{audio_filter},atrim=end={T / FPS}",
                spoiled,
            ],
            check=True,
        )
        result = examine(spoiled, sound, driving(aperture), CLIP, LIMITS).verdict
        assert result.verdict == verdict and any(reason in line for line in result.reasons), (name, result)


def test_measures_that_are_undefined_do_not_change_the_verdict():
    rng = np.random.default_rng(1)
    assert np.isnan(lip_lag(None, np.ones(200), FPS)[0])
    assert np.isnan(lip_lag(rng.standard_normal((50, 480)), rng.random(50), FPS)[0])  # The recording is too short.
    lag, clearness = lip_lag(rng.standard_normal((400, 480)), rng.random(400), FPS)
    assert np.isnan(lag) or clearness < LIMITS.sync_clear
    good = {
        "frames": 10,
        "frames_expected": 10,
        "audio_minus_video_s": 0,
        "audio_lag_frames": 0,
        "lip_lag_frames": np.nan,
        "lip_correlation": 0,
        "darkest_frame": 90,
        "frozen_s": 0,
        "faces": 1,
        "sharpness_kept": np.nan,
        "lufs": -20,
        "lufs_target": -20,
        "peak": 0.5,
        "unseen_hands": np.nan,
        "unseen_arms": 0.2,
    }
    assert judge(good, FPS, LIMITS).verdict == "pass"
    misread = judge(good | {"transcript_misread": 1.0}, FPS, LIMITS)
    assert misread.verdict == "review" and "the transcript is not what is said" in misread.reasons[0]
    # The peaks of this sound do not allow it to be louder.
    assert judge(good | {"lufs": -24, "peak": 0.95}, FPS, LIMITS).verdict == "pass"


def test_clips_that_show_what_the_portrait_does_not_are_reviewed(talking_clip, tmp_path):
    frames, aperture, sound = talking_clip
    path = tmp_path / "clip.mp4"
    write_video(path, [frames], frames.shape[1:3], FPS, sound, T / FPS, load_params(ROOT / "params.yaml").video, "t")
    for hands, arms, words in ((0.1, 0.1, []), (0.55, 0.1, ["55% of the hands"]), (np.nan, 0.9, ["90% of the arms"])):
        verdict = examine(path, sound, driving(aperture, hands, arms), CLIP, LIMITS).verdict
        reasons = [reason for reason in verdict.reasons if "never in the portrait" in reason]
        assert len(reasons) == len(words) and all(w in r for w, r in zip(words, reasons, strict=True))
        assert (verdict.verdict == "review") == bool(words)
