#!/usr/bin/env bash
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
cd "$folder"
# A process that may write files of at most 1,000 bytes stands in for a full disk: the kernel refuses the write with
# EFBIG, as it refuses one on a full disk with ENOSPC. A plain write raises OSError with that number. numpy.save raises
# OSError without a number. safetensors raises SafetensorError, a plain Exception, with the number in its text only. A
# handler that looks for OSError with errno ENOSPC sees one of the three.
"$folder/env/bin/python" - <<'PY'
import resource, signal
import numpy as np
import safetensors
from safetensors.numpy import save_file

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
array = np.zeros(10_000, np.float32)
try:
    with open("plain", "wb", buffering=0) as file:
        while file.write(bytes(400)):
            pass
    raise SystemExit("the file was written; expected an error")
except OSError as error:
    print("plain write:", type(error).__name__, error.errno)
    assert error.errno == 27
try:
    np.save("array.npy", array)
    raise SystemExit("numpy wrote the file; expected an error")
except OSError as error:
    print("numpy", np.__version__ + ":", type(error).__name__, error.errno, "|", error)
    assert error.errno is None
try:
    save_file({"array": array}, "array.safetensors")
    raise SystemExit("safetensors wrote the file; expected an error")
except Exception as error:
    print("safetensors", safetensors.__version__ + ":", type(error).__name__, "|", error)
    assert not isinstance(error, OSError) and not hasattr(error, "errno")
    assert "os error 27" in str(error)
PY
echo "seen: three ways to say that the disk refused a write, one of them with an errno"
