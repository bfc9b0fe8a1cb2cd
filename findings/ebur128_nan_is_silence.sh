#!/usr/bin/env bash
# ffmpeg's loudness meter (ebur128) takes a sound of NaN for silence: it reports -70.0 LUFS and ends with status 0.
# Only the line of the peak says "nan". Whoever parses the loudness alone plays garbage as a silent file.
#
# Seen with imageio-ffmpeg 0.6.0 (ffmpeg 7.0.2) and numpy 2.2.6, scipy 1.15.3:
#   silence: status 0, I -70.0 LUFS, peak -inf dBFS
#   NaN:     status 0, I -70.0 LUFS, peak nan dBFS
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check imageio-ffmpeg==0.6.0 numpy==2.2.6 scipy==1.15.3
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import re
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from scipy.io import wavfile

folder, seen = Path(sys.argv[1]), {}
for name, value in (("silence", 0.0), ("NaN", np.nan)):
    wavfile.write(folder / f"{name}.wav", 48000, np.full(96000, value, np.float32))
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-nostats", "-v", "info", "-i", folder / f"{name}.wav"]
    command += ["-af", "ebur128=peak=sample:framelog=quiet", "-f", "null", "-"]
    done = subprocess.run(command, capture_output=True, text=True)
    loudness = re.findall(r"\bI:\s+(\S+) LUFS", done.stderr)[-1]
    peak = re.findall(r"\bPeak:\s+(\S+) dBFS", done.stderr)[-1]
    seen[name] = (done.returncode, loudness, peak)
    print(f"{name}: status {done.returncode}, I {loudness} LUFS, peak {peak} dBFS")
assert seen == {"silence": (0, "-70.0", "-inf"), "NaN": (0, "-70.0", "nan")}, seen
PYTHON
