#!/usr/bin/env bash
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check scipy==1.17.1 opencv-python-headless==4.14.0.94 numpy
# Pictures of people are cut up by distances from masks: which hand is a pixel nearer to? Where a mask is empty, one would
# expect an infinite distance, or an error. SciPy measures to a pixel that is not there, at row -1 and column 0: small
# distances that grow smoothly and look right. Its nearest indices are -1 and 0, which NumPy reads as the last row.
# OpenCV gives the largest number of its type.
"$folder/env/bin/python" - <<'PY'
import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt

outside = np.ones((4, 6), bool)  # everything is outside of an empty mask
distance, (rows, columns) = distance_transform_edt(outside, return_indices=True)
print("scipy:", distance[0].round(2), "nearest:", rows[0, 0], columns[0, 0])
largest = cv2.distanceTransform(outside.astype(np.uint8), cv2.DIST_L2, 5)
print("opencv:", largest[0])
y, x = np.indices(outside.shape)
assert np.allclose(distance, np.hypot(y + 1, x)) and (rows == -1).all() and (columns == 0).all()
assert (largest == np.finfo(np.float32).max).all()
PY
echo "seen: the distance from an empty mask is that from a pixel above the picture's left corner (SciPy), or 3.4e38 (OpenCV)"
