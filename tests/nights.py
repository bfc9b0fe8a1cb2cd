"""What the tests of batches share: small manifests, the command line and drivers as processes of their own."""

import json
import os
import subprocess
import sys

import yaml

from stereotalker.media.video_files import read_frames
from stereotalker.params import ROOT, Params

SMALL = {"width": 64, "height": 64, "fps": 12.5}


def write_batch(folder, clips, name="batch"):
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"defaults": SMALL | {"avatar": "ava"}, "clips": clips}))
    return path


def cli(*arguments, home, timeout=300, **more):
    environment = {**os.environ, "STEREOTALKER_HOME": str(home.root)}
    command = [sys.executable, "-m", "stereotalker.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout, cwd=ROOT, **more)


DRIVER = """
import json, sys, pathlib
from stereotalker.params import Params
from stereotalker.runtime.home import Home
home, batch, out, weights, executor, changes = sys.argv[1:]
home = Home(pathlib.Path(home))
params = Params.model_validate_json((home.root / "params.json").read_text()).with_produce(json.loads(changes))
from stereotalker.flows.produce import produce
done = produce(pathlib.Path(batch), pathlib.Path(out), params, home, executor, weights=pathlib.Path(weights))
print([(r.id, r.shown, r.error) for r in done.results])
sys.exit(done.end.status)
"""


def driver(home, batch, out, weights, executor="ray", **changes):
    """A batch as production makes it, in a process that can be killed. changes: of params.produce."""
    arguments = [
        sys.executable,
        "-c",
        DRIVER,
        *map(str, (home.root, batch, out, weights, executor, json.dumps(changes))),
    ]
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, start_new_session=True
    )


def one_thread(params: Params, **changes) -> Params:
    return params.with_produce({"worker": {"threads": 1, "backoff": 0.05}, **changes})


def all_frames(out):
    return {path.name: read_frames(path) for path in sorted((out / "clips").glob("*.mp4"))}
