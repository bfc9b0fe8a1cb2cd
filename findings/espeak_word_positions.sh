#!/usr/bin/env bash
# espeak-ng's word events are no words of the text. A contraction is reported up to its apostrophe, an amount in many
# pieces that overlap, and behind an accent the place is wrong: the second word of "déjà vu" points into the first.
# Whoever takes text[position - 1 : position - 1 + length] for the word gets other words than were written.
#
# Seen with espeakng-loader 0.2.4 (espeak-ng 1.52):
#   "I can't"    -> ['I', 'can']
#   "$1,234.50"  -> ['$', '1,', ',2', '234.50', ...], nine in all
#   "déjà vu"    -> ['déjà', 'éjà ']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check espeakng-loader==0.2.4
"$folder/venv/bin/python" - <<'PYTHON'
import ctypes

import espeakng_loader


class Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int), ("unique_identifier", ctypes.c_uint), ("text_position", ctypes.c_int),
        ("length", ctypes.c_int), ("audio_position", ctypes.c_int), ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p), ("id", ctypes.c_char * 8),
    ]


library = ctypes.CDLL(espeakng_loader.get_library_path())
library.espeak_Initialize(2, 0, espeakng_loader.get_data_path().encode(), 0x8000)
library.espeak_SetVoiceByName(b"en-us")
places = []


@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(Event))
def collect(wave, count, event):
    k = 0
    while event[k].type:
        if event[k].type == 1:  # a word
            places.append((event[k].text_position, event[k].length))
        k += 1
    return 0


library.espeak_SetSynthCallback(collect)
seen = {}
for text in ("I can't", "$1,234.50", "d\u00e9j\u00e0 vu"):
    places.clear()
    data = text.encode()
    library.espeak_Synth(data, len(data) + 1, 0, 1, 0, 1, None, None)
    library.espeak_Synchronize()
    seen[text] = [text[place - 1 : place - 1 + length] for place, length in places]
    print(f"{text!r}: {seen[text]}")
assert seen["I can't"] == ["I", "can"], seen
assert len(seen["$1,234.50"]) > 4 and seen["$1,234.50"][0] == "$", seen
assert "vu" not in seen["d\u00e9j\u00e0 vu"] and len(seen["d\u00e9j\u00e0 vu"]) == 2, seen
PYTHON
