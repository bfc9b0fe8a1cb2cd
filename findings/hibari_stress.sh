#!/usr/bin/env bash
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check hibari-tts==0.2.1 onnxruntime==1.27.0
cd "$folder"
# To stress a word, one would put it in asterisks, as Markdown and other voices have it, or add the stress mark of IPA.
# hibari drops the asterisks, and the dictionary gives most words the mark already. What lengthens a word is the mark of
# length, and twice of it lengthens more, although no text of its own rules ever has two.
"$folder/env/bin/python" - <<'PY'
from hibari import Hibari

voice = Hibari(threads=1)
plain, starred = (voice.phonemize(text) for text in ("I want that one.", "I want *that* one."))
print("with and without asterisks:", plain, starred)
assert plain == starred and "ðˈæt" in plain[0]
lengths = {
    that: len(voice.from_phonemes(plain[0].replace("ðˈæt", that), seed=0)) / 24_000
    for that in ("ðæt", "ðˈæt", "ðˈæːt", "ðˈæːːt")
}
print("seconds of the sentence:", lengths)
assert list(lengths.values()) == sorted(lengths.values())
assert lengths["ðˈæːːt"] >= lengths["ðˈæt"] + 0.09
PY
echo "seen: asterisks change nothing; length marks make a stressed word longer"
