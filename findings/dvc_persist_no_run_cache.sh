#!/usr/bin/env bash
# dvc 3.67.1: one output with `persist: true`, even a plot that nothing depends on, turns the run cache off for its
# whole stage, without a message. When dvc.lock goes back to an older commit (a branch, an experiment, a clone), a stage
# without it is restored from the cache, and the same stage with it runs again, hours of training included. `dvc repro
# --pull` and `dvc push --run-cache` do not help, because nothing was recorded.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check "dvc==3.67.1" "setuptools<81"
export PATH="$folder/env/bin:$PATH"
for option in false true; do
  mkdir "$folder/$option" && cd "$folder/$option"
  dvc init -q --no-scm
  echo data > data
  cat > dvc.yaml <<YAML
stages:
  train:
    cmd: echo ran >> ../runs.$option; echo weights > weights; echo "step,loss" > curve.csv; echo "1,2" >> curve.csv
    deps: [data]
    outs: [weights]
    plots: [curve.csv: {persist: $option}]
YAML
  dvc repro -q
  rm dvc.lock weights
  dvc repro | grep "train"
  echo "persist $option: the stage ran $(wc -l < ../runs.$option) time(s)"
done
[ "$(wc -l < "$folder/runs.false")" = 1 ] && [ "$(wc -l < "$folder/runs.true")" = 2 ]
