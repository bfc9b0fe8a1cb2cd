#!/usr/bin/env bash
# dvc 3.67.1 (dulwich 1.2.21): with the usual `/data/*` and `!/data/kept/` in .gitignore, git does not ignore data/kept,
# but DVC does: it asks dulwich about "data/", which the pattern does not mean. `dvc add` writes data/kept/set.dvc all
# the same, and then `dvc push` pushes 0 files with status 0, `dvc pull data/kept/set` knows no such output, and
# `dvc status` calls everything up to date. With `/data/other/` in the place of the star, all is well.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check "dvc==3.67.1" "dulwich==1.2.21" "setuptools<81" 2>/dev/null
export PATH="$folder/env/bin:$PATH"
for case in star named; do
  mkdir -p "$folder/store-$case" "$folder/$case/data/kept/set" && cd "$folder/$case"
  git init -q
  echo one > data/kept/set/file
  if [ $case = star ]; then printf '/data/*\n!/data/kept/\n'; else printf '/data/other/\n'; fi > .gitignore
  dvc init -q
  dvc add -q data/kept/set
  dvc remote add -q --default store "$folder/store-$case"
  if git check-ignore -q data/kept/set.dvc; then exit 1; fi # git does not ignore the pointer
  dvc push -q
  found=$(find "$folder/store-$case" -type f | wc -l)
  status=$(dvc pull data/kept/set 2>&1 | grep -c "does not exist as an output" || true)
  echo "$case: $found files pushed; pull says that the output does not exist: $status"
  pushed="${pushed:-} $found/$status"
done
[ "$pushed" = " 0/1 2/0" ]
