#!/usr/bin/env bash
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check av==18.1.0 imageio-ffmpeg==0.6.0 numpy==2.4.6
cd "$folder"
# Exactly one second of sound (48,000 samples) is put into an MP4 as AAC. Decoded frame by frame it has more samples:
# AAC works in frames of 1,024 and its encoder adds a frame of delay, which the file's edit list tells players to skip.
# A program that adds up decoded frames therefore finds another length than the container states.
"$folder/env/bin/python" - <<'PY'
import subprocess

import av
import imageio_ffmpeg
import numpy as np

tone = (8000 * np.sin(2 * np.pi * 440 * np.arange(48_000) / 48_000)).astype("<i2")
command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "s16le", "-ar", "48000", "-ac", "1", "-i", "-",
           "-c:a", "aac", "-y", "tone.mp4"]
subprocess.run(command, input=tone.tobytes(), check=True)
with av.open("tone.mp4") as file:
    stream = file.streams.audio[0]
    stated = float(stream.duration * stream.time_base)
    frames = [frame.samples for frame in file.decode(audio=0)]
print("PyAV", av.__version__, "stated", stated, "s; decoded", sum(frames), "samples in", len(frames), "frames")
assert abs(stated - 1.0) < 1e-3
assert sum(frames) > 48_000 and sum(frames) % 1024 == 0
PY
echo "seen: the decoded samples are more than went in, by whole frames"
