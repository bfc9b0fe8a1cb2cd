"""What the tests of batches share: small manifests, the command line, and batch drivers in separate processes."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import yaml
from mlflow import MlflowClient

from stereotalker.avatar.library import SHIPPED, Card, Library
from stereotalker.cli.main import main
from stereotalker.media.video_files import read_frames
from stereotalker.params import ROOT, Params
from stereotalker.records import Avatar, load
from stereotalker.runtime.home import Home

SMALL = {"width": 64, "height": 64, "fps": 12.5}
# The shipped avatar `ava` at a quarter of its width and height. Every home that the tests create has it.
SMALL_AVATAR = "small"


def write_batch(folder, clips, name="batch"):
    """Write a manifest of small clips of the small avatar, and return its path."""
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"defaults": SMALL | {"avatar": SMALL_AVATAR}, "clips": clips}))
    return path


def fill_home(home: Home) -> None:
    """Put into an empty home what every batch needs: MLflow's tables and the small avatar."""
    MlflowClient(tracking_uri=home.tracking_uri).search_experiments()  # the first call creates the tables
    shipped = load(Avatar, SHIPPED / "ava.safetensors")
    height, width = (side // 4 for side in shipped.regions.shape)
    scale = np.array([[0.25], [0.25], [1]], np.float32)
    small = replace(
        shipped,
        name=SMALL_AVATAR,
        portrait=cv2.resize(shipped.portrait, (width, height), interpolation=cv2.INTER_AREA),
        background=cv2.resize(shipped.background, (width, height), interpolation=cv2.INTER_AREA),
        regions=cv2.resize(shipped.regions, (width, height), interpolation=cv2.INTER_NEAREST),
        intrinsics=(shipped.intrinsics * scale).astype(np.float32),
    )
    card = Card(
        name=SMALL_AVATAR,
        key="test",
        picture="ava.png",
        sha256="",
        made="2026-01-01",
        size=(height, width),
        detector="none",
        residuals={},
        notes=(),
        style="presenter",
        consent=None,
    )
    Library(home.avatars).add(card, small, [])


def copy_home(template: Home, root: Path) -> Home:
    """Copy `template` to the folder `root` and return the copy."""
    shutil.copytree(template.root, root)
    return Home(root)


@dataclass(frozen=True)
class CommandResult:
    """The exit status and the output of a `stereotalker` command."""

    returncode: int
    stdout: str
    stderr: str


def cli(*arguments, home: Home) -> CommandResult:
    """Run `stereotalker ARGUMENTS` in this process, with the error handling of the real entry point."""
    stdout, stderr = io.StringIO(), io.StringIO()
    old_environment, old_argv = dict(os.environ), sys.argv
    os.environ["STEREOTALKER_HOME"] = str(home.root)
    sys.argv = ["stereotalker", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            main()
        returncode = 0
    except SystemExit as exit_:
        returncode = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    finally:
        sys.argv = old_argv
        os.environ.clear()
        os.environ.update(old_environment)
    return CommandResult(returncode, stdout.getvalue(), stderr.getvalue())


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


def start_driver(home, batch, out, weights, executor="ray", **changes):
    """Start a batch as production does, in a separate process that can be killed. changes: to params.produce."""
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
    """`params` with one thread a worker and a short wait before a lost worker is replaced."""
    return params.with_produce({"worker": {"threads": 1, "backoff": 0.05}, **changes})


def all_frames(out):
    """The frames of every video of a batch: file name -> u8 [T, H, W, 3]."""
    return {path.name: read_frames(path) for path in sorted((out / "clips").glob("*.mp4"))}
