#!/usr/bin/env bash
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
cd "$folder"
# A process that may write files of at most 1,000 bytes stands in for a full disk: the kernel refuses the write with
# EFBIG, as it refuses one on a full disk with ENOSPC. numpy reports it as OSError with an errno. safetensors raises
# SafetensorError, which is a plain Exception without an errno; the number is in its text only. A handler for OSError
# does not see it.
"$folder/env/bin/python" - <<'PY'
import resource, signal
import numpy as np
import safetensors
from safetensors.numpy import save_file

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
array = np.zeros(10_000, np.float32)
try:
    np.save("array.npy", array)
    raise SystemExit("numpy wrote the file; expected an error")
except OSError as error:
    print("numpy:", type(error).__name__, error.errno)
try:
    save_file({"array": array}, "array.safetensors")
    raise SystemExit("safetensors wrote the file; expected an error")
except Exception as error:
    print("safetensors", safetensors.__version__ + ":", type(error).__name__, "|", error)
    assert not isinstance(error, OSError) and not hasattr(error, "errno")
    assert "os error 27" in str(error)
PY
echo "seen: safetensors reports a refused write as SafetensorError, not as OSError"
