#!/usr/bin/env bash
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check onnxruntime==1.27.0 onnx==1.20.0 numpy
# Networks of speech such as Piper's draw noise inside of the graph. onnxruntime.set_seed is the call for it, and one
# would set it before each sentence, to get the same sound each time. It does nothing for a session that exists: the seed
# is taken when the session is made, and moves on with every run. Only a new session begins anew.
"$folder/env/bin/python" - <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

node = helper.make_node("RandomNormalLike", ["x"], ["noise"])
values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "noise")]
model = helper.make_model(
    helper.make_graph([node], "voice", values[:1], values[1:]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
)
data, silence = model.SerializeToString(), {"x": np.zeros(4, np.float32)}


def session():
    onnxruntime.set_seed(7)
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])


voice = session()
first = voice.run(None, silence)[0]
onnxruntime.set_seed(7)
again = voice.run(None, silence)[0]
anew = session().run(None, silence)[0]
print("first:", first, "after set_seed:", again, "new session:", anew)
assert not np.array_equal(first, again) and np.array_equal(first, anew)
PY
echo "seen: set_seed does not reach a session that exists; a new one speaks the same again"
