"""Video files: length, frame rate, color, stereo metadata, and the same bytes for the same frames."""

import av
import numpy as np
import pytest

from stereotalker.errors import UserError
from stereotalker.media.audio_files import wav_bytes
from stereotalker.media.stereo import Stereo
from stereotalker.media.video_files import frame_count, frame_rate, probe, read_frames, write_video


@pytest.fixture
def sound(tmp_path):
    path = tmp_path / "s.wav"
    path.write_bytes(wav_bytes(np.random.default_rng(0).normal(0, 0.1, (2, 48_000)).astype(np.float32)))
    return path


def gradient(frames, height, width):
    y, x = np.mgrid[0:height, 0:width]
    return np.stack(
        [np.stack([x * 200 // width, y * 200 // height, np.full_like(x, 20 + 5 * t)], -1) for t in range(frames)]
    ).astype(np.uint8)


@pytest.mark.parametrize(
    ("seconds", "fps", "size"),
    [(1.0, 25.0, (64, 64)), (1.37, 12.0, (96, 160)), (0.51, 23.976, (160, 90)), (2.2, 60.0, (64, 66))],
)
def test_a_video_has_its_exact_length_and_format(tmp_path, tiny_params, sound, seconds, fps, size):
    count = frame_count(seconds, fps)
    assert count == round(seconds * fps)
    out = tmp_path / "o" / "c.mp4"
    write_video(out, [gradient(count, *size)], size, fps, sound, count / fps, tiny_params.video, "c")
    film = probe(out)
    assert (
        film.frames == count and film.size == size and film.codecs == ("h264", "aac") and film.pixel_format == "yuv420p"
    )
    assert abs(film.audio_seconds - film.video_seconds) <= 1 / fps + 1024 / 48000
    assert "trainedAlgorithmicMedia" in film.comment
    assert [p.name for p in out.parent.iterdir()] == ["c.mp4"]


@pytest.mark.parametrize(
    ("fps", "stated"),
    [
        (23.976, "24000/1001"),
        (29.97, "30000/1001"),
        (59.94, "60000/1001"),
        (12.0, "12"),
        (24.0, "24"),
        (25.0, "25"),
        (60.0, "60"),
        (12.5, "25/2"),
        (23.9, "239/10"),
    ],
)
def test_a_container_states_the_exact_frame_rate(tmp_path, tiny_params, sound, fps, stated):
    assert str(frame_rate(fps)) == stated
    write_video(tmp_path / "c.mp4", [gradient(12, 64, 64)], (64, 64), fps, sound, 12 / fps, tiny_params.video, "c")
    with av.open(str(tmp_path / "c.mp4")) as container:
        assert str(container.streams.video[0].average_rate) == stated


@pytest.mark.parametrize(("layout", "kind"), [("side-by-side", 1), ("over-under", 2)])
def test_stereo_layouts_are_in_the_metadata(tmp_path, tiny_params, sound, layout, kind):
    frames = gradient(30, 64, 128)
    for name, stereo in (("plain", None), ("stereo", Stereo(layout=layout))):
        write_video(tmp_path / f"{name}.mp4", [frames], (64, 128), 25.0, sound, 1.2, tiny_params.video, "c", stereo)
    with av.open(str(tmp_path / "stereo.mp4")) as container:
        layouts = [bytes(side)[0] for side in next(container.decode(video=0)).side_data if side.type.name == "STEREO3D"]
    # AV_STEREO3D_SIDEBYSIDE or AV_STEREO3D_TOPBOTTOM, from the stream and from the container
    assert layouts == [kind, kind]
    # The longer header does not displace any frame or sample.
    assert probe(tmp_path / "stereo.mp4") == probe(tmp_path / "plain.mp4")
    assert np.array_equal(read_frames(tmp_path / "stereo.mp4"), read_frames(tmp_path / "plain.mp4"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plain.mp4", "s.wav", "stereo.mp4"]


def test_colors_are_kept(tmp_path, tiny_params, sound):
    frames = gradient(5, 64, 96)
    write_video(tmp_path / "c.mp4", iter([frames[:2], frames[2:]]), (64, 96), 25.0, sound, 0.2, tiny_params.video, "c")
    assert np.abs(read_frames(tmp_path / "c.mp4").astype(int) - frames).mean() < 4


def test_the_same_frames_give_the_same_bytes(tmp_path, tiny_params, sound):
    for name in ("a", "b"):
        write_video(
            tmp_path / f"{name}.mp4", [gradient(5, 64, 64)], (64, 64), 25.0, sound, 0.2, tiny_params.video, "same"
        )
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    # Two files of the same second would agree even if they held their time of creation.
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert "creation_time" not in container.metadata


def test_a_failed_write_leaves_no_file(tmp_path, tiny_params, sound):
    bad = tiny_params.video.model_copy(update={"preset": "nonsense"})
    with pytest.raises(UserError, match="could not write the video"):
        write_video(tmp_path / "v" / "c.mp4", [gradient(5, 64, 64)], (64, 64), 25.0, sound, 0.2, bad, "c")
    assert not list((tmp_path / "v").iterdir())
