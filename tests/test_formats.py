"""Files: equal bytes for equal contents, and what videos say of their rate and colors."""

import json

import av
import numpy as np
import pytest
import torch
import zstandard

from stereotalker.media import audio_files
from stereotalker.media.frame_files import load_frames, save_frames
from stereotalker.media.video_files import frame_rate, write_video
from stereotalker.params import load_params
from stereotalker.records import Speech, save
from stereotalker.store.digests import file_digest
from stereotalker.weights import load_weights, save_weights

pytestmark = pytest.mark.integration


def test_equal_records_and_weights_give_equal_bytes(tiny_models, tmp_path):
    speech = Speech(np.zeros(8000, np.float32), -20.0)
    masks = tiny_models.renderer.masks
    for k in range(4):
        save(speech, tmp_path / f"speech{k}")
        save_weights(masks, tmp_path / f"weights{k}")
    for kind in ("speech", "weights"):
        assert len({file_digest(tmp_path / f"{kind}{k}") for k in range(4)}) == 1
    size = int.from_bytes((tmp_path / "weights0").read_bytes()[:8], "little")
    header = json.loads((tmp_path / "weights0").read_bytes()[8 : 8 + size])
    assert len(header["__metadata__"]) == 1
    again = load_weights(type(masks), type(masks.config), tmp_path / "weights0")
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), masks.state_dict().values(), strict=True))


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("count", [1, 7])
def test_stored_frames_are_read_without_loss(count, channels, tmp_path):
    drawn = np.random.default_rng(0).integers(0, 256, (count, 36, 2 * 50, channels), dtype=np.uint8)
    for frames in (drawn, drawn[:, :, ::2], drawn[::-1], drawn.transpose(0, 2, 1, 3)):
        save_frames(tmp_path / "frames", frames)
        assert np.array_equal(load_frames(tmp_path / "frames"), frames)


def test_equal_frames_take_the_room_of_one(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for count in (1, 20):
        save_frames(tmp_path / f"frames{count}", np.repeat(noise[None], count, 0))
    one, twenty = (len((tmp_path / f"frames{count}").read_bytes()) for count in (1, 20))
    assert noise.nbytes < one and twenty < 1.05 * one


@pytest.mark.parametrize("part", [0, 0.1, 0.9, 0.999])
def test_a_file_of_frames_that_is_cut_short_is_refused(part, tmp_path):
    save_frames(tmp_path / "frames", np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), dtype=np.uint8))
    whole = (tmp_path / "frames").read_bytes()
    (tmp_path / "frames").write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(ValueError, match="ends before frame|EOF"):
        load_frames(tmp_path / "frames")


def test_other_arrays_than_frames_are_refused(tmp_path):
    for array in (np.zeros((2, 8, 8, 3), np.int16), np.zeros((8, 8, 3), np.uint8)):
        with pytest.raises(ValueError, match="expected uint8"):
            save_frames(tmp_path / "frames", array)
        with open(tmp_path / "frames", "wb") as file, zstandard.ZstdCompressor().stream_writer(file) as stream:
            np.save(stream, array)
        with pytest.raises(ValueError, match="expected uint8"):
            load_frames(tmp_path / "frames")


@pytest.mark.parametrize(
    ("written", "meant"), [(23.98, "24000/1001"), (23.976, "24000/1001"), (29.97, "30000/1001"), (59.94, "60000/1001"),
                           (24, "24"), (25.0, "25"), (12.5, "25/2"), (30, "30")]
)  # fmt: skip
def test_the_broadcast_rate_that_people_write_is_the_one_they_mean(written, meant):
    assert str(frame_rate(written)) == meant


@pytest.mark.parametrize(("ending", "channels"), [(".mp4", 3), (".mov", 4)])
def test_videos_say_in_which_colors_they_are(tmp_path, ending, channels):
    (tmp_path / "s.wav").write_bytes(audio_files.wav_bytes(np.zeros((2, 24000), np.float32)))
    frames = np.full((5, 64, 64, channels), 128, np.uint8)
    path = tmp_path / f"a{ending}"
    write_video(path, [frames], (64, 64), 10.0, tmp_path / "s.wav", 0.5, load_params().video, "a")
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.color_primaries, context.color_trc, context.colorspace) == (1, 1, 1)  # bt709
