#!/usr/bin/env bash
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check ffmpeg-python==0.2.0
# Two sounds are mixed, each delayed. One would expect that every call of input() and filter() makes a stream of its own.
# But nodes with equal arguments are one node: if both sounds are the same file with the same delay, the graph cannot be
# compiled, while the same code works for any other two sounds. What is used twice needs asplit.
"$folder/env/bin/python" - <<'PY'
import ffmpeg


def mix(sounds):
    delayed = [ffmpeg.input(name).audio.filter("adelay", delays=delay, all=1) for name, delay in sounds]
    return ffmpeg.compile(ffmpeg.filter(delayed, "amix", inputs=2, normalize=0).output("out.wav"))


for others in ([("a.wav", 0), ("b.wav", 0)], [("a.wav", 0), ("a.wav", 500)]):
    assert mix(others).count("-i") == len({name for name, _ in others})
try:
    mix([("a.wav", 0), ("a.wav", 0)])
except ValueError as error:
    print("seen:", str(error)[:100])
    assert "multiple outgoing edges" in str(error)
else:
    raise SystemExit("equal streams can be mixed now")
split = ffmpeg.input("a.wav").audio.filter("adelay", delays=0, all=1).filter_multi_output("asplit")
print(ffmpeg.compile(ffmpeg.filter([split[0], split[1]], "amix", inputs=2).output("out.wav"))[2:5])
PY
echo "seen: the same file with the same filter twice is one node, and cannot be mixed with itself"
