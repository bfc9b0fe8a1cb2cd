#!/usr/bin/env bash
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 peft==0.21.2 transformers==5.24.0
cd "$folder"
# Importing one UNet class of diffusers imports every transformer model of diffusers, and with them peft, transformers
# and torch's compiler (torch._dynamo, torch._inductor, sympy), although the class uses none of them. A process that only
# runs the UNet waits several times as long as for the class itself. All three are optional: hidden while diffusers is
# imported, they are not missed, and the UNet gives the same result.
cat > unet.py <<'PY'
import sys
import time

import torch

if sys.argv[1] == "hidden":
    names = ("accelerate", "peft", "transformers", "torch._dynamo")
    sys.modules.update({name: None for name in names})
    keep, torch.compiler.disable = torch.compiler.disable, lambda f=None, *a, **k: f or (lambda g: g)
started = time.perf_counter()
from diffusers import UNet2DModel

seconds = time.perf_counter() - started
if sys.argv[1] == "hidden":
    torch.compiler.disable = keep
    for name in names:
        sys.modules.pop(name, None)
loaded = [name for name in ("peft", "transformers", "torch._dynamo", "torch._inductor", "sympy") if name in sys.modules]
torch.manual_seed(0)
net = UNet2DModel(16, 3, 3, block_out_channels=(32, 32), layers_per_block=1, norm_num_groups=8,
                  down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
with torch.no_grad():
    total = float(net(torch.ones(1, 3, 16, 16), 1).sample.double().sum())
print(f"{seconds:.2f} {total:.9f} {','.join(loaded)}")
PY
"$folder/env/bin/python" unet.py plain > /dev/null # the first import writes bytecode
plain=$("$folder/env/bin/python" unet.py plain | tail -1)
"$folder/env/bin/python" unet.py hidden > /dev/null
hidden=$("$folder/env/bin/python" unet.py hidden | tail -1)
echo "as it is (seconds, sum of the result, loaded): $plain"
echo "hidden: $hidden"
python3 - "$plain" "$hidden" <<'PY'
import sys

(slow, first, loaded), (fast, second, rest) = (line.split(" ") for line in sys.argv[1:])
assert loaded == "peft,transformers,torch._dynamo,torch._inductor,sympy", loaded
assert rest == "" and first == second and float(slow) > 2 * float(fast)
PY
echo "seen: one UNet class of diffusers 0.42.1 imports peft, transformers and torch's compiler, and needs none of them"
