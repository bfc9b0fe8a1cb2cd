#!/usr/bin/env bash
# model-signing 1.1.1: the package imports OpenSSL (pyOpenSSL) as soon as it is imported, but does not ask for it. Its
# requirements once brought it along; with sigstore 4.5 nothing does, and `import model_signing` fails in a fresh
# environment that pip calls complete.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/pip" --disable-pip-version-check)
"${pip[@]}" install -q "model-signing==1.1.1" "sigstore==4.5.1"
"${pip[@]}" check
if seen=$("$folder/venv/bin/python" -c "import model_signing" 2>&1); then
  echo "model-signing 1.1.1 can be imported now"
  exit 1
fi
echo "import model_signing: ${seen##*$'\n'}"
[[ "$seen" == *"No module named 'OpenSSL'"* ]]
"${pip[@]}" install -q pyopenssl
"$folder/venv/bin/python" -c "import model_signing; print('with pyopenssl it can be imported:', model_signing.__version__)"
