#!/usr/bin/env bash
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6 smplx==0.1.28
cd "$folder"
# A file in SMPL-X format is made with 20 shape and 52 expression columns, random numbers in the right shapes. smplx is
# asked for 20 and 52. It reads 10 and 10, and takes the expression from columns 10 to 19, which hold shape: it looks
# for 300 + 100 columns, and with fewer assumes the small layout. It prints a warning and goes on.
"$folder/env/bin/python" - <<'PY' 2>&1 | tee seen.txt
import numpy as np
import smplx

V, F, J = 10_475, 20_908, 55
rng = np.random.default_rng(0)
weights = np.zeros((V, J), np.float32)
weights[:, 0] = 1
regressor = np.zeros((J, V), np.float32)
regressor[np.arange(J), np.arange(J)] = 1
parents = np.array([-1, *range(J - 1)], np.int64)
np.savez(
    "SMPLX_NEUTRAL.npz",
    v_template=rng.normal(size=(V, 3)).astype(np.float32),
    f=rng.integers(0, V, (F, 3)),
    shapedirs=rng.normal(size=(V, 3, 72)).astype(np.float32),
    posedirs=np.zeros((V, 3, 9 * (J - 1)), np.float32),
    J_regressor=regressor,
    weights=weights,
    kintree_table=np.stack([parents, np.arange(J)]),
    hands_componentsl=np.eye(45, dtype=np.float32),
    hands_componentsr=np.eye(45, dtype=np.float32),
    hands_meanl=np.zeros(45, np.float32),
    hands_meanr=np.zeros(45, np.float32),
    lmk_faces_idx=np.zeros(51, np.int64),
    lmk_bary_coords=np.full((51, 3), 1 / 3, np.float32),
)
sizes = {"num_betas": 20, "num_expression_coeffs": 52}
model = smplx.SMPLX("SMPLX_NEUTRAL.npz", ext="npz", use_pca=False, use_face_contour=False, **sizes)
print("asked 20 and 52, got", model.num_betas, "and", model.num_expression_coeffs)
assert (model.num_betas, model.num_expression_coeffs) == (10, 10)
columns = np.load("SMPLX_NEUTRAL.npz")["shapedirs"]
assert np.allclose(model.expr_dirs.numpy(), columns[:, :, 10:20])
PY
grep -q "WARNING" seen.txt
echo "seen: smplx 0.1.28 drops columns of a file that has fewer than 400, with a warning only"
