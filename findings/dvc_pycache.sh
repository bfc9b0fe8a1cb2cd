#!/usr/bin/env bash
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check dvc==3.67.1
cd "$folder"
# A stage whose dependency is a folder of Python code is up to date after `dvc repro`. Importing the code once, as any
# run of it does, writes __pycache__ into the folder, and DVC hashes that too: the stage is stale although no source
# changed. A line "__pycache__" in .dvcignore prevents it.
export DVC_NO_ANALYTICS=1 PATH="$folder/env/bin:$PATH"
mkdir -p project/code && cd project
echo "VALUE = 1" > code/part.py
cat > dvc.yaml <<'YAML'
stages:
  build:
    cmd: echo done > out.txt
    deps: [code]
    outs: [out.txt]
YAML
dvc init --no-scm -q
dvc repro -q
before=$(dvc status)
env -u PYTHONDONTWRITEBYTECODE python -c "import sys; sys.path.insert(0, 'code'); import part"
after=$(dvc status)
echo "__pycache__" > .dvcignore
ignored=$(dvc status)
dvc --version
echo "before: $before"
echo "after an import: $after"
echo "with .dvcignore: $ignored"
grep -q "up to date" <<< "$before"
grep -q "modified" <<< "$after"
grep -q "up to date" <<< "$ignored"
echo "seen: importing code makes a stage that depends on its folder stale"
