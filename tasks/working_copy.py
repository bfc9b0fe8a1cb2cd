"""The working copy in which a retraining runs, so that the checkout and its weights stay as they are.

It is a clone of the checkout in the home, with a DVC cache of its own. What a retraining makes is kept there for the
next one, and so are the checkpoints of one that was interrupted.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from stereotalker.dataset.inputs import INPUTS, imports
from stereotalker.dataset.recordings import read_cards
from stereotalker.errors import Unavailable, UserError
from stereotalker.params import BASE_VARIABLE, ROOT
from stereotalker.runtime.home import Home
from stereotalker.runtime.process_identity import identity, is_dead
from stereotalker.stages.paths import CURVES
from stereotalker.store.files import copy_tree, write_atomic
from stereotalker.tasks.tracking import can_write

_POLL_S = 1.0
REFS = "refs/retrain"  # where the commits of retrainings are kept in the checkout
_REMOTE, _CHECKOUT = "studio", "checkout"  # names of DVC's remotes: that of params.yaml, and the checkout's own cache


@dataclass
class WorkingCopy:
    """A clone at `folder` of the checkout at `origin`."""

    folder: Path
    origin: Path
    home: Home
    has_remote: bool = False  # whether DVC takes data from a remote and pushes there, see `use_remote`

    @classmethod
    def open(cls, home: Home) -> WorkingCopy:
        """Make the clone, or bring it to the checkout's commit. Raises UserError if there is no checkout."""
        origin = ROOT
        if not (origin / ".git").exists() or not (origin / "dvc.yaml").is_file():
            raise UserError(
                f"{origin} is no checkout with a dvc.yaml, so there is nothing to train from; clone the repository, "
                "and install it from there with `pip install -e`"
            )
        copy = cls(home.root / "retrain" / "work", origin, home)
        copy._end_left_over()
        if not (copy.folder / ".git").exists():
            staging = copy.folder.with_name("cloning")
            shutil.rmtree(staging, ignore_errors=True)
            staging.parent.mkdir(parents=True, exist_ok=True)
            _run(["git", "clone", "-q", str(origin), str(staging)], staging.parent)
            staging.rename(copy.folder)
        (copy.folder / ".git" / "index.lock").unlink(missing_ok=True)  # of a git that was killed
        copy.git("remote", "set-url", "origin", str(origin))
        copy.git("fetch", "-q", "origin", "HEAD")
        copy.git("checkout", "-q", "--force", "--detach", "FETCH_HEAD")
        copy._dvc("config", "--local", "cache.dir", str(home.root / "retrain" / "cache"))
        copy._dvc("config", "--local", "core.autostage", "true")  # else DVC advises to do so after every stage
        return copy

    def _end_left_over(self) -> None:
        """End the trainings of a retraining that was killed, because they write into the same folder."""
        try:
            left = self._process_file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return
        if not is_dead(left):
            group = int(left.split("/")[1])
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGCONT)
                os.killpg(group, signal.SIGKILL)
        self._process_file.unlink()

    @property
    def _process_file(self) -> Path:
        """Holds the identity of the DVC that runs."""
        return self.home.root / "retrain" / "process"

    def git(self, *arguments: str) -> str:
        """Run git in the copy. Raises UserError, with git's message, if it fails."""
        return _run(["git", *arguments], self.folder)

    def take_recordings(self, sets: Path) -> None:
        """Take over the sets of recordings of the checkout, under DVC's control. Sets that are gone there go here."""
        ours = {card.name: card for card in read_cards(self.folder / sets)}
        theirs = {card.name: card for card in read_cards(self.origin / sets)}
        for name, card in ours.items():
            if theirs.get(name) != card:
                shutil.rmtree(self.folder / sets / name)
                (self.folder / sets / f"{name}.dvc").unlink(missing_ok=True)
        for name, card in theirs.items():
            if ours.get(name) != card:
                copy_tree(self.origin / sets / name, self.folder / sets / name)
            self._dvc("add", "-q", str(sets / name))

    def use_remote(self, url: str | None) -> None:
        """Let DVC take data from a remote, and push there: a URL, or a folder as seen from the checkout; None: none."""
        if url and "://" not in url:
            url = str((self.origin / Path(url).expanduser()).resolve())
        if url:
            self._dvc("remote", "add", "--local", "--force", "--default", _REMOTE, url)
        self.has_remote = bool(url)

    def take_inputs(self, must_wait: Callable[[], bool]) -> None:
        """Bring the inputs that the checkout imported, as its commit names them; see dataset.inputs.

        They come from the checkout's cache, which is laid out like a remote, or from the remote. Raises UserError if an
        import is not committed, or lies nowhere.
        """
        for name in {*imports(self.origin), *imports(self.folder)}:
            pointers = [root / f"{name}.dvc" for root in (self.origin, self.folder)]
            if len({pointer.read_bytes() if pointer.is_file() else b"" for pointer in pointers}) > 1:
                raise UserError(f"{self.origin / name}.dvc differs from the last commit; commit it")
        for folder in (self.folder / INPUTS).glob("*/*/"):
            if not folder.with_name(f"{folder.name}.dvc").is_file():
                shutil.rmtree(folder)  # of an import that the checkout has removed
        if not (names := imports(self.folder)):
            return
        cache = _run([sys.executable, "-m", "dvc", "cache", "dir"], self.origin)
        self._dvc("remote", "add", "--local", "--force", _CHECKOUT, str(self.origin / cache))
        remotes = (_CHECKOUT, *([_REMOTE] if self.has_remote else []))
        pull = ("pull", "-q", "--force", "--recursive", str(INPUTS), "--remote")
        is_found = any(self._run_dvc((*pull, remote), must_wait) for remote in remotes)
        if not is_found or not all((self.folder / name).exists() for name in names):
            raise UserError(
                f"{', '.join(names)}: neither the cache of {self.origin} nor releases.data has all of it; run "
                "`dvc update` on its .dvc file there, and commit"
            )

    def data(self) -> dict[str, str]:
        """Digests of what stages wrote, without their curves, and of the inputs and recordings that DVC keeps."""
        lock = yaml.safe_load((self.folder / "dvc.lock").read_text(encoding="utf-8"))
        outs = [out for stage in lock["stages"].values() for out in stage.get("outs", ())]
        found = {out["path"]: out["md5"] for out in outs if _is_data(Path(out["path"]))}
        recordings = sorted(path.with_suffix("") for path in (self.folder / "data" / "recordings").glob("*.dvc"))
        for name in [*(path.relative_to(self.folder).as_posix() for path in recordings), *imports(self.folder)]:
            pointer = yaml.safe_load((self.folder / f"{name}.dvc").read_text(encoding="utf-8"))
            found[name] = pointer["outs"][0]["md5"]
        return found

    def code_version(self) -> str:
        """The digest of the copy's code, see store.code.code_version."""
        program = "from stereotalker.store.code import code_version; print(code_version())"
        return _run([sys.executable, "-c", program], self.folder, self._environment())

    def outputs(self, stages: tuple[str, ...]) -> set[str]:
        """Paths that these stages of dvc.yaml, and those that they need, write."""
        described = yaml.safe_load((self.folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
        written = {
            name: {next(iter(out)) if isinstance(out, dict) else out for out in stage.get("outs", ())}
            for name, stage in described.items()
        }
        wanted, found = list(stages), set[str]()
        while wanted:
            if (name := wanted.pop()) not in found:
                found.add(name)
                needed = set(described[name].get("deps", ()))
                wanted += [other for other, outs in written.items() if outs & needed]
        return set().union(*(written[name] for name in found))

    def reproduce(self, stages: tuple[str, ...], params: Path | None, must_wait: Callable[[], bool]) -> None:
        """Run `dvc repro` for stages and all that they need. Raises UserError if a stage fails.

        params: takes the place of the copy's params.yaml; must_wait: asked every second; while it says so, the training
        is stopped and keeps its memory. What the remote has is taken from it, and in the end it has all. Raises
        Unavailable if it cannot be reached then; the training is kept.
        """
        if params is not None:
            (self.folder / "params.yaml").write_bytes(params.read_bytes())
        can_pull = self.has_remote and self._run_dvc(("fetch", "-q", "--run-cache", "--remote", _REMOTE), must_wait)
        if self.has_remote and not can_pull:
            print("note: releases.data cannot be read now; what it has is made again", flush=True)
        if not self._run_dvc(("repro", *(["--pull"] if can_pull else []), *stages), must_wait):
            raise UserError("dvc repro failed; its output is above. Run `stereotalker retrain` again to go on")
        if self.has_remote and not self._run_dvc(("push", "-q", "--run-cache", "--remote", _REMOTE), must_wait):
            raise Unavailable(
                "the data could not be pushed to releases.data; dvc's output is above. The training is kept: run "
                "`stereotalker retrain` again when it can be reached"
            )

    def _run_dvc(self, arguments: tuple[str, ...], must_wait: Callable[[], bool]) -> bool:
        """Run DVC, with what it prints shown, and stop it while `must_wait` says so. Returns whether it succeeded."""
        process = subprocess.Popen(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=self.folder,
            env=self._environment(),
            start_new_session=True,
        )
        write_atomic(self._process_file, identity(process.pid).encode())
        is_stopped = False
        try:
            while process.poll() is None:
                wanted = must_wait()
                if wanted and not is_stopped:
                    is_stopped = self._stop(process.pid)
                    if is_stopped:
                        print("the training waits for a batch", flush=True)
                elif is_stopped and not wanted:
                    os.killpg(process.pid, signal.SIGCONT)
                    is_stopped = False
                    print("the training goes on", flush=True)
                time.sleep(_POLL_S)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGCONT)
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()
            self._process_file.unlink(missing_ok=True)
        return process.returncode == 0

    def _stop(self, group: int) -> bool:
        """Stop the processes of a group, unless one of them is writing to MLflow. Returns whether they are stopped.

        A process that is stopped in the middle of a write would keep the lock of the database, and the batch would wait
        for it.
        """
        os.killpg(group, signal.SIGSTOP)
        if can_write(self.home):
            return True
        os.killpg(group, signal.SIGCONT)
        return False

    def commit(self, message: str) -> str:
        """Commit what DVC has locked, and keep the commit in the checkout, too. Returns its full hash."""
        names = ("dvc.lock", "dvc.yaml", "params.yaml", "metrics", "data/recordings")
        self.git("add", "--all", "--", *(name for name in names if (self.folder / name).exists()))
        identity = ("-c", "user.name=StereoTalker", "-c", "user.email=retrain@localhost")
        self.git(*identity, "commit", "-q", "--allow-empty", "-m", message)
        commit = self.git("rev-parse", "HEAD")
        self.git("push", "-q", "origin", f"HEAD:{REFS}/{commit[:12]}")
        return commit

    def _dvc(self, *arguments: str) -> str:
        return _run([sys.executable, "-m", "dvc", *arguments], self.folder, self._environment())

    def _environment(self) -> dict[str, str]:
        """The stages run with the copy's own code, and find `stereotalker` beside this Python."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        return {
            **os.environ,
            "PATH": path,
            "PYTHONPATH": str(self.folder),
            BASE_VARIABLE: str(self.origin),
            "STEREOTALKER_HOME": str(self.home.root),
        }


def _is_data(path: Path) -> bool:
    """Whether an output of a stage is data or weights: not a curve, which differs in every run, nor a table."""
    return path.parts[0] in ("data", "artifacts") and CURVES not in path.parents


def _run(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> str:
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if result.returncode:
        raise Unavailable(f"`{' '.join(command[:4])}` failed in {folder}: {result.stderr.strip() or result.stdout}")
    return result.stdout.strip()
