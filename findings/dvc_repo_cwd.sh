#!/usr/bin/env bash
# dvc 3.67.1, Python API: Repo("/path/of/a") does not make stage names mean those of project a. `commit("copy")` looks
# them up in the dvc.yaml of the working directory: from project b it takes b's stage and then refuses b's output as an
# "external output" of a; from a folder without dvc.yaml there is no such stage. Only from inside a does it work.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check "dvc==3.67.1" "setuptools<81"
"$folder/env/bin/python" - "$folder" <<'PYTHON'
import os
import sys
from pathlib import Path

from dvc.repo import Repo

root = Path(sys.argv[1])
for name in ("a", "b", "empty"):
    (root / name).mkdir()
    if name != "empty":
        (root / name / "in.txt").write_text(name)
        (root / name / "out.txt").write_text(name)
        stage = "stages: {copy: {cmd: cp in.txt out.txt, deps: [in.txt], outs: [out.txt]}}\n"
        (root / name / "dvc.yaml").write_text(stage)
os.chdir(root / "a")
Repo.init(no_scm=True).close()
seen = {}
for name in ("empty", "b", "a"):
    os.chdir(root / name)
    try:
        with Repo(str(root / "a")) as repo:
            repo.commit("copy", force=True)
        seen[name] = "done"
    except Exception as error:
        seen[name] = f"{type(error).__name__}: {str(error).replace(str(root), '')[:70]}"
    print("working directory", name + ":", seen[name])
assert seen["a"] == "done" and seen["empty"].startswith("NoOutputOrStageError")
assert "external output" in seen["b"] and "/b/out.txt" in seen["b"]
PYTHON
