"""The registry of releases: which one production uses, and who decided that, when and why.

MLflow's alias `champion` is what production follows, and one move of it changes all stages. The ledger keeps the
history, and both are changed together: the intention is written first, and whoever comes next finishes what a killed
process left (`_settle`). So a promotion happens as a whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from stereotalker.errors import Unavailable, UserError, is_network_fault
from stereotalker.params import Params, ReleaseParams
from stereotalker.releases.card import model_card
from stereotalker.releases.ledger import START, Entry, Ledger
from stereotalker.releases.model_store import CARD, DATA_CARD, SIGNATURE, ModelStore
from stereotalker.releases.release import SHIPPED_NUMBER, Release, mismatch, shipped_files, shipped_release
from stereotalker.releases.signing import is_signed, key_pair, sign
from stereotalker.runtime.home import Home
from stereotalker.runtime.process_identity import person
from stereotalker.store.digests import bytes_digest
from stereotalker.store.files import write_atomic
from stereotalker.tasks.tracking import CHALLENGER, CHAMPION, PREVIOUS, ModelRegistry, TrackingError
from stereotalker.weights import FOLDER

LEDGER = "ledger.jsonl"
_MODEL_SECTIONS = ("audio", "motion", "render", "body")  # of params.yaml, on which clips depend beside the weights
_MAX_REASON_CHARS = 2000
_LOCK_S = 60.0  # seconds to wait for another process that changes the registry
_MIRROR = "ledger.{:06d}"  # tag of the registered model that holds a line of the ledger


class TrackingUnavailable(Unavailable):
    """MLflow does not answer."""


@dataclass(frozen=True)
class Registered:
    """A release with its number: 0 for the package, else the version in MLflow."""

    number: int
    digest: str

    def __str__(self) -> str:
        return f"release {self.number} ({self.digest[:12]})"


@dataclass(frozen=True)
class ModelSource:
    """The models of a batch: a folder of weights, and the release that it is, if it is one."""

    folder: Path
    number: int = SHIPPED_NUMBER
    release: str = ""  # digest; empty for weights that belong to no release
    store: str = ""  # where other machines find the release; empty for the shipped one
    note: str = ""  # for the user, such as that MLflow did not answer


class ChampionChanged(UserError):
    """A challenger was compared with another champion than the present one."""


class Registry:
    """The releases of a home. Methods raise Unavailable if MLflow or the store of releases does not answer."""

    def __init__(self, home: Home, params: ReleaseParams):
        self._home, self._params = home, params
        self.store = model_store(home, params)
        self.ledger = Ledger(home.releases / LEDGER)
        self._pending = home.releases / "pending.json"
        with _reachable(home):
            self._mlflow = ModelRegistry(home)

    def champion(self) -> Registered:
        """The release that production uses."""
        if self._pending.is_file():
            with self._locked():
                pass  # to finish what a killed process left
        with _reachable(self._home):
            return self._at(CHAMPION)

    def challenger(self) -> Registered | None:
        """The newest release that is not the champion and was never refused; None if there is none."""
        with _reachable(self._home):
            version = self._mlflow.at(CHALLENGER)
        return Registered(version.number, version.release) if version else None

    def previous(self) -> Registered:
        """The champion before the present one."""
        with _reachable(self._home):
            return self._at(PREVIOUS)

    def all(self) -> list[Registered]:
        """The shipped release, and all that are registered."""
        with _reachable(self._home):
            found = [Registered(version.number, version.release) for version in self._mlflow.versions()]
        return [Registered(SHIPPED_NUMBER, shipped_release().digest), *found]

    def find(self, number: int) -> Registered:
        """The release with a number. Raises UserError if there is none."""
        for registered in (found := self.all()):
            if registered.number == number:
                return registered
        raise UserError(f"release {number} is unknown; known are {', '.join(str(r.number) for r in found)}")

    def manifest(self, registered: Registered) -> Release:
        """The manifest of a release."""
        shipped = shipped_release()
        return shipped if registered.digest == shipped.digest else self.store.release(registered.digest)

    def source(self, registered: Registered) -> ModelSource:
        """See `source_of`."""
        return source_of(registered, self._home, self._params)

    def files(self, registered: Registered) -> dict[str, Path]:
        """The files of a release on this machine, by name."""
        release = self.manifest(registered)
        if release.digest == shipped_release().digest:
            return shipped_files()
        return {name: self.store.file(sha256) for name, sha256 in release.files.items()}

    def cards(self, registered: Registered) -> list[str]:
        """The model card of a release, and its data card if a retraining made it."""
        found = (self.store.read(registered.digest, name) for name in (CARD, DATA_CARD))
        return [data.decode() for data in found if data] or [model_card(self.manifest(registered), "", "")]

    def attach(self, registered: Registered, name: str, text: str) -> None:
        """Write or replace a card of a release: its model card (CARD) or its data card (DATA_CARD)."""
        self.store.attach(registered.digest, name, text.encode())

    def register(self, release: Release, files: dict[str, Path], card: str, run: str | None = None) -> Registered:
        """Store, sign and register a release, and make it the challenger. files: by name; run: of its training."""
        with self._locked(), _reachable(self._home):
            digest = self.store.add(release, files)
            self.store.attach(digest, CARD, card.encode())
            self.store.attach(digest, SIGNATURE, sign(release.to_json(), self._keys()[0]))
            tags = {"commit": release.commit, "code": release.code, "made": release.made}
            registered = Registered(self._mlflow.create(digest, run, tags), digest)
            self._mlflow.point(CHALLENGER, registered.number)
            self._record(Entry("registered", digest, registered.number))
        return registered

    def promote(
        self, registered: Registered, why: str, gates: tuple[dict, ...] = (), instead_of: Registered | None = None
    ) -> None:
        """Make a release the champion. Raises UserError if it is that already.

        instead_of: the champion that it was compared with. Raises ChampionChanged if that is another one by now.
        """
        self._move("promoted", registered, why, gates, instead_of)

    def roll_back(self, to: Registered | None = None, why: str = "") -> Registered:
        """Make an earlier release the champion again. to: None for the one before. Returns it.

        Raises UserError without `to` if the last move was a roll back: the one before is then what was rolled back.
        """
        target, moved = to or self.previous(), self._last_move()
        if to is None and moved is not None and moved.action == "rolled back":
            raise UserError(f"{target} was rolled back from; if you mean it, say `--to {target.number}`")
        if to is None and target == self.champion():
            raise UserError("there was no champion before the present one; `--to` names another release")
        self._move("rolled back", target, why)
        return target

    def note(
        self, action: str, registered: Registered, why: str, gates: tuple[dict, ...] = (), batch: str = ""
    ) -> None:
        """Add a line to the ledger that moves nothing: refused, waiting, used or canary."""
        with self._locked(), _reachable(self._home):
            if action == "refused":
                self._drop_challenger(registered.number)
            self._record(Entry(action, registered.digest, registered.number, why=why, gates=gates, batch=batch))

    def is_judged(self, registered: Registered) -> bool:
        """Whether somebody has decided about a release. The shipped one needs no decision."""
        decisions = ("promoted", "rolled back", "refused", "waiting")
        decided = {entry.release for entry in self.ledger.entries() if entry.action in decisions}
        return registered.number == SHIPPED_NUMBER or registered.digest in decided

    def state(self, registered: Registered) -> str:
        """What was decided about a release last: promoted, rolled back to, refused, waiting, or registered alone."""
        actions = [entry.action for entry in self.ledger.entries() if entry.release == registered.digest]
        decided = [action for action in actions if action not in ("used", "canary")]
        return {"rolled back": "rolled back to"}.get(decided[-1], decided[-1]) if decided else ""

    def _last_move(self) -> Entry | None:
        moves = [entry for entry in self.ledger.entries() if entry.action in ("promoted", "rolled back")]
        return moves[-1] if moves else None

    def sign(self, registered: Registered) -> None:
        """Sign a release again, such as with a new key."""
        release = self.manifest(registered)
        self.store.attach(registered.digest, SIGNATURE, sign(release.to_json(), self._keys()[0]))

    def faults(self, registered: Registered) -> list[str]:
        """What is wrong with a release: manifest, files and signature. Empty if all is well."""
        if registered.digest == shipped_release().digest:
            return []  # its digest was computed from its files a moment ago
        found = []
        try:
            release = self.store.release(registered.digest)
        except UserError as error:
            return [str(error)]
        for sha256 in release.files.values():
            try:
                self.store.file(sha256)
            except UserError as error:
                found.append(str(error))
        if not found and (reason := mismatch(self.files(registered))):
            found.append(f"{registered} cannot run: {reason}")
        signature = self.store.read(registered.digest, SIGNATURE)
        if signature is None:
            found.append(f"{registered} is not signed; sign it with `stereotalker models sign {registered.number}`")
        elif not is_signed(release.to_json(), signature, self._keys()[1]):
            found.append(f"the signature of {registered} was not made with this key, or for another manifest")
        return found

    def ledger_faults(self) -> list[str]:
        """What is wrong with the ledger: its chain, its mirror in MLflow, or a champion that it does not name."""
        try:
            with self._locked(), _reachable(self._home):
                entries, lines = self.ledger.entries(), self.ledger.lines()
                self._mirror()  # a process may have been killed before it did
                tags, champion = self._mlflow.tags(), self._at(CHAMPION)
        except TrackingUnavailable:
            raise
        except UserError as error:
            return [str(error)]
        found = []
        mirrored = sum(name.startswith("ledger.") for name in tags)
        if mirrored > len(lines):
            found.append(f"{self.ledger.path} has {len(lines)} lines, its mirror in MLflow {mirrored}")
        for number, line in enumerate(lines, 1):
            if json.loads(tags[_MIRROR.format(number)])["line"] != bytes_digest(line):
                found.append(f"{self.ledger.path}: line {number} is another one than in its mirror in MLflow")
                break
        moves = [entry for entry in entries if entry.action in ("promoted", "rolled back")]
        number = moves[-1].number if moves else SHIPPED_NUMBER
        if champion.number != number:
            place = f"MLflow's champion is release {champion.number}, the ledger's is {number}"
            found.append(f"{place}: it was moved by hand")
        return found

    def _move(
        self,
        action: str,
        target: Registered,
        why: str,
        gates: tuple[dict, ...] = (),
        instead_of: Registered | None = None,
    ) -> None:
        with self._locked(), _reachable(self._home):
            champion = self._at(CHAMPION)
            if instead_of is not None and champion != instead_of:
                raise ChampionChanged(f"the champion changed since the comparison with {instead_of}: it is {champion}")
            if champion == target:
                raise UserError(f"{target} is the champion already")
            if faults := self.faults(target):
                raise UserError(f"{target} is not {action}: {'; '.join(faults)}")
            entry = self._signed(Entry(action, target.digest, target.number, champion.digest, why=why, gates=gates))
            # From here on the move happens, whatever becomes of this process.
            intention = {"entry": asdict(entry), "before": champion.number, "head": self.ledger.head()}
            write_atomic(self._pending, json.dumps(intention).encode())
            self._settle()

    def _settle(self) -> None:
        """Finish the move whose intention was written. Every step may be repeated."""
        if not self._pending.is_file():
            return
        intention = json.loads(self._pending.read_text(encoding="utf-8"))
        values = intention["entry"]
        entry = Entry(**values | {"gates": tuple(values["gates"])})
        if self.ledger.head() == intention["head"]:
            self.ledger.append(entry)
        self._mlflow.point(PREVIOUS, intention["before"])
        self._mlflow.point(CHAMPION, entry.number)
        self._drop_challenger(entry.number)
        self._mirror()
        self._pending.unlink()

    def _record(self, entry: Entry) -> None:
        self.ledger.append(self._signed(entry))
        self._mirror()

    def _signed(self, entry: Entry) -> Entry:
        """The entry with who makes it, and when."""
        return replace(entry, who=person(), when=_now())

    def _mirror(self) -> None:
        """Write the lines of the ledger that MLflow does not have yet as tags of the model."""
        tags, last = self._mlflow.tags(), START
        for number, line in enumerate(self.ledger.lines(), 1):
            name, last = _MIRROR.format(number), bytes_digest(line)
            if name not in tags:
                values = json.loads(line)
                short = {key: values[key] for key in ("action", "number", "release", "who", "when")}
                short["why"] = values["why"][:_MAX_REASON_CHARS]  # MLflow cuts long tags
                self._mlflow.tag(name, json.dumps({"line": last, **short}))

    def _at(self, alias: str) -> Registered:
        version = self._mlflow.at(alias)
        return (
            Registered(version.number, version.release)
            if version
            else Registered(SHIPPED_NUMBER, shipped_release().digest)
        )

    def _drop_challenger(self, number: int) -> None:
        """Let no alias name the release as the challenger."""
        if (challenger := self._mlflow.at(CHALLENGER)) and challenger.number == number:
            self._mlflow.point(CHALLENGER, SHIPPED_NUMBER)

    def _keys(self) -> tuple[Path, Path]:
        return key_pair(self._params.key, self._home.releases)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the registry, after an interrupted move is finished."""
        self._home.releases.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self._home.releases / "registry.lock", timeout=_LOCK_S):
                with _reachable(self._home):
                    self._settle()
                yield
        except Timeout:
            raise Unavailable("another process has been changing the registry of releases for a minute") from None


def resolve(
    home: Home, params: ReleaseParams, pinned: Registered | None = None, number: int | None = None
) -> ModelSource:
    """The models for a batch: of the release with which it began, or with this number, or else the champion's.

    If MLflow does not answer, the champion that was resolved last is used, with a note. Raises Unavailable if the files
    of the release are not there, UserError if there is no release with this number.
    """
    last = home.releases / "champion.json"
    try:
        registry = Registry(home, params)
        if number is not None:
            return registry.source(registry.find(number))
        chosen, note = pinned or registry.champion(), ""
        if pinned is None:
            with suppress(OSError):  # a read-only home
                write_atomic(last, json.dumps(asdict(chosen)).encode())
            if (moved := _last_moved(home)) and moved.number != chosen.number:
                note = f"MLflow's champion is {chosen}, the ledger's {moved}; `stereotalker models verify` looks closer"
    except TrackingUnavailable as error:
        if number is not None:
            raise
        chosen = pinned or _last_moved(home) or _read_last(last)
        note = f"{error}; release {chosen.number} is used, as far as this machine knows the champion"
    return replace(source_of(chosen, home, params), note=note)


def note_first_use(home: Home, params: ReleaseParams, source: ModelSource, batch: str) -> None:
    """Add to the ledger which batch was the first that used the champion, if it is the first."""
    moves = [e for e in Ledger(home.releases / LEDGER).entries() if e.action in ("promoted", "rolled back", "used")]
    if moves and moves[-1].action != "used" and moves[-1].release == source.release:
        champion = Registered(source.number, source.release)
        Registry(home, params).note("used", champion, "the first batch of this champion", batch=batch)


def settings_note(home: Home, params: Params, source: ModelSource) -> str:
    """A note that names settings of the models, such as motion.steps, that differ from those of the judgement.

    Those of trainings do not count. Empty if there is none, or for the shipped release.
    """
    if not source.store:
        return ""
    judged, ours = model_store(home, params.releases).release(source.release).params, params.of_models()
    others = [
        f"{section}.{name}"
        for section in _MODEL_SECTIONS
        for name, value in ours[section].items()
        if name not in ("training", "prior", "examples") and judged.get(section, {}).get(name, value) != value
    ]
    return f"release {source.number} was judged with other values of {', '.join(others)}" if others else ""


def source_of(registered: Registered, home: Home, params: ReleaseParams) -> ModelSource:
    """Where the files of a release are on this machine. They are fetched if necessary, and verified."""
    if registered.number == SHIPPED_NUMBER:
        return ModelSource(FOLDER, SHIPPED_NUMBER, shipped_release().digest)
    store = model_store(home, params)
    return ModelSource(store.checkout(registered.digest), registered.number, registered.digest, str(store))


def model_store(home: Home, params: ReleaseParams) -> ModelStore:
    """The store of releases that the parameters name, or else the one of the home."""
    return ModelStore(params.store or str(home.models), home.models)


def _last_moved(home: Home) -> Registered | None:
    """The champion of the ledger; None without one, as on machines where nobody promotes, or if it is damaged."""
    with suppress(UserError):
        moves = [e for e in Ledger(home.releases / LEDGER).entries() if e.action in ("promoted", "rolled back")]
        return Registered(moves[-1].number, moves[-1].release) if moves else None
    return None


def _read_last(file: Path) -> Registered:
    """The champion that was resolved last, or else the shipped release."""
    try:
        return Registered(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Registered(SHIPPED_NUMBER, "")


@contextmanager
def _reachable(home: Home) -> Iterator[None]:
    """Raise TrackingUnavailable if MLflow does not answer inside the block."""
    try:
        yield
    except (TrackingError, OSError) as error:
        if isinstance(error, OSError) and not is_network_fault(error):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise TrackingUnavailable(f"MLflow at {home.tracking_uri} does not answer: {reason}") from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
