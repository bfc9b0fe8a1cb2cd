"""Retraining: a challenger is trained in a working copy, judged against the champion, and promoted, refused or held.

Nothing that production uses changes before the gates of params.yaml hold, or a person says so.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput

from stereotalker.dataset.data_card import data_card
from stereotalker.dataset.inputs import input_sources
from stereotalker.dataset.recordings import SetCard, read_cards
from stereotalker.dataset.test_set import leaks
from stereotalker.errors import UserError
from stereotalker.evaluation.release_comparison import Comparison, compare, read_test_set
from stereotalker.models import Models
from stereotalker.params import Params, load_params
from stereotalker.releases.card import model_card
from stereotalker.releases.model_store import CARD, DATA_CARD
from stereotalker.releases.release import FILES, WEIGHTS_FILES, Release, Source, libraries, mismatch
from stereotalker.runtime.home import Home
from stereotalker.stages import STAGES
from stereotalker.stages.paths import LOGS, PEOPLE, SPEECH, TEST_SET, WEIGHTS
from stereotalker.store.digests import file_digest
from stereotalker.tasks.compute_lock import is_batch_running, retraining_of
from stereotalker.tasks.notify import failures_notified, notify
from stereotalker.tasks.registry import ChampionChanged, Registered, Registry
from stereotalker.tasks.tracking import Tracker
from stereotalker.tasks.train import trained_by
from stereotalker.tasks.working_copy import WorkingCopy
from stereotalker.weights import weights_file

_POLL_S = 5.0
_MORE_STAGES = ("test_set",)  # brought up to date, whatever is retrained, because the comparison needs it


class Decision(RunInput):
    """What a person says about a challenger that passed the gates."""

    promote: bool
    because: str = ""


@dataclass(frozen=True)
class Retraining:
    """What the tasks of a retraining share."""

    params: Params
    home: Home
    copy: WorkingCopy
    registry: Registry
    stages: tuple[str, ...]

    def must_wait(self) -> bool:
        """Whether a batch computes on this machine, for which the retraining makes room."""
        return is_batch_running(self.home)


@task(name="dvc repro", cache_policy=NO_CACHE, persist_result=False)
def reproduce(run: Retraining, params: Path | None) -> None:
    """Bring the data and the weights of the stages up to date. DVC decides what is stale."""
    if run.params.speech.added:
        run.copy.take_recordings(run.params.speech.added)
    run.copy.use_remote(run.params.releases.data)
    run.copy.take_inputs(run.must_wait)
    input_sources(run.copy.folder)  # a missing licence is said before the training, not after it
    run.copy.reproduce((*run.stages, *_MORE_STAGES), params, run.must_wait)


@task(name="register", cache_policy=NO_CACHE, persist_result=False)
def register(run: Retraining, champion: Registered) -> Registered:
    """Make a release of what these stages wrote, and of the champion's files for the rest. It becomes the challenger.

    Raises UserError if nothing differs from the champion, if the same weights were judged before, or if they do not fit
    together.
    """
    before, files = run.registry.manifest(champion), run.registry.files(champion)
    outputs = run.copy.outputs(run.stages)
    trained = {name: run.copy.folder / WEIGHTS / name for name in WEIGHTS_FILES if str(WEIGHTS / name) in outputs}
    files = files | trained
    digests = {name: file_digest(path) for name, path in files.items()}
    if digests == before.files:
        raise UserError(f"nothing was trained anew: every file is that of the champion, {champion}")
    for other in run.registry.all():
        if run.registry.manifest(other).files == digests:
            if run.registry.is_judged(other):
                raise UserError(f"these weights were judged before, as {other}; `stereotalker models show` says how")
            return other  # a retraining was killed between its training and its judgement
    if reason := mismatch(files):
        raise UserError(f"the challenger cannot run: {reason}")
    changed = {name for name in FILES if digests[name] != before.files[name]}
    commit = run.copy.commit(f"Retrain {', '.join(sorted(changed))}")
    lock = run.copy.folder / "requirements.lock"
    kept = {stage: r for stage, r in before.runs.items() if weights_file(stage, Path()).name not in changed}
    release = Release(
        files=digests,
        params=run.params.of_models(),
        code=run.copy.code_version(),
        libraries=libraries(),
        lock=file_digest(lock) if lock.is_file() else "",
        sources=(*before.sources, *_added_sources(run, before)),
        commit=commit,
        data=run.copy.data(),
        runs=kept | trained_by(run.home, {name: path for name, path in trained.items() if name in changed}),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    run_of_all = next(iter(release.runs.values()), None)
    return run.registry.register(release, files, model_card(release, "", ""), run_of_all)


@task(name="compare", cache_policy=NO_CACHE, persist_result=False)
def judge(run: Retraining, champion: Registered, challenger: Registered) -> Comparison:
    """Measure both on the test set, in one run. Raises UserError if the test set shares anything with the training."""
    folder = run.copy.folder
    if shared := leaks(folder / TEST_SET, folder / SPEECH, folder / PEOPLE):
        raise UserError("the test set is not apart from the training: " + "; ".join(shared))
    ours, theirs = (
        Models(run.params, source.folder, source.release, source.number)
        for source in (run.registry.source(release) for release in (champion, challenger))
    )
    comparison = compare(ours, theirs, read_test_set(folder / TEST_SET, run.params), run.params.releases)
    try:
        _record(run.home, champion, challenger, comparison)
    except Exception as error:  # hours of training do not end because of a record; the card has the table
        print(f"note: MLflow did not take the comparison: {error}")
    card = model_card(run.registry.manifest(challenger), str(champion), comparison.table())
    run.registry.attach(challenger, CARD, card)
    return comparison


def _record(home: Home, champion: Registered, challenger: Registered, comparison: Comparison) -> None:
    """Write a run of the comparison."""
    tracker = Tracker(home, "evaluation")
    record = tracker.start(f"{challenger} against {champion}", tags={"stage": "compare", "release": challenger.digest})
    tracker.note(record, metrics={f"{row.measure}.difference": row.difference for row in comparison.rows})
    tracker.attach(record, "gates.md", comparison.table().encode())
    tracker.end(record)


@task(name="decide", cache_policy=NO_CACHE, persist_result=False)
def decide(run: Retraining, champion: Registered, challenger: Registered, comparison: Comparison, why: str) -> bool:
    """Promote the challenger if it passes, and the champion is still the one that it was compared with."""
    gates = comparison.records()
    if not comparison.passes:
        run.registry.note("refused", challenger, comparison.reason, gates)
        return False
    try:
        run.registry.promote(challenger, f"{comparison.reason}{why and '; ' + why}", gates, instead_of=champion)
    except ChampionChanged as error:
        run.registry.note("waiting", challenger, str(error), gates)
        return False
    return True


@flow(name="retrain", persist_result=False)
def retrain(stages: tuple[str, ...] = (), params: str | None = None) -> bool:
    """Train a challenger and judge it. Returns whether it is the champion now.

    stages: of dvc.yaml, with all that they need; empty: those of `releases.retrain`. params: path of another
    params.yaml. Raises UserError for an unknown stage, or if nothing was trained that was not judged before.
    """
    home, path = Home.default(), Path(params).resolve() if params else None
    with failures_notified(load_params(path).produce.notify, "retrain"):
        with retraining_of(home):
            run = _opened(home, path, stages)
            reproduce(run, path)
            champion = run.registry.champion()
            challenger = register(run, champion)
            comparison = _judged(run, champion, challenger)
            _attach_data_card(run, challenger)
        return _finished(run, champion, challenger, comparison)


@flow(name="judge", persist_result=False)
def judge_again(number: int) -> bool:
    """Judge a registered release on the test set, by the gates of today. Returns whether it is the champion now.

    Raises UserError for an unknown release, and for the champion.
    """
    home = Home.default()
    with retraining_of(home):
        run = _opened(home, None, _MORE_STAGES)
        champion, challenger = run.registry.champion(), run.registry.find(number)
        if champion == challenger:
            raise UserError(f"{challenger} is the champion; another release is judged against it")
        reproduce(run, None)
        comparison = _judged(run, champion, challenger)
    return _finished(run, champion, challenger, comparison)


def _opened(home: Home, params: Path | None, stages: tuple[str, ...]) -> Retraining:
    """The working copy at the checkout's commit, and the parameters with which it trains, is recorded and judged."""
    copy = WorkingCopy.open(home)
    loaded = load_params(params or copy.folder / "params.yaml")
    chosen = stages or tuple(loaded.releases.retrain)
    _check_stages(chosen)
    return Retraining(loaded, home, copy, Registry(home, loaded.releases), chosen)


def _judged(run: Retraining, champion: Registered, challenger: Registered) -> Comparison:
    """See `judge`; waits for batches first."""
    while run.must_wait():
        time.sleep(_POLL_S)
    return judge(run, champion, challenger)


def _attach_data_card(run: Retraining, challenger: Registered) -> None:
    """Describe the data of a retraining. A later judgement does not: the copy may hold other data by then."""
    folder = run.copy.folder
    card = data_card(folder / SPEECH, folder / PEOPLE, folder / TEST_SET, _added_sets(run), input_sources(folder))
    run.registry.attach(challenger, DATA_CARD, card)


def _finished(run: Retraining, champion: Registered, challenger: Registered, comparison: Comparison) -> bool:
    """Show the table, decide, and tell. Returns whether the challenger is the champion now."""
    print(comparison.table())
    is_promoted = _decided(run, champion, challenger, comparison)  # a person may take days
    what = f"{challenger} is the champion" if is_promoted else f"{challenger} is not promoted"
    print(f"{what}; `stereotalker models show {challenger.number} --cards` shows its cards")
    print(f"curves and previews are in {run.copy.folder / LOGS}")
    if notified := run.params.produce.notify:
        notify(notified, f"retrain: {what}", comparison.table())
    return is_promoted


def _decided(run: Retraining, champion: Registered, challenger: Registered, comparison: Comparison) -> bool:
    """Whether the challenger is promoted, as `releases.promotion` in params.yaml says."""
    rules = run.params.releases
    if not comparison.passes or rules.promotion == "gates":
        return decide(run, champion, challenger, comparison, "")
    run.registry.note("waiting", challenger, "for a decision", comparison.records())
    if rules.promotion == "never":
        return False
    question = Decision.with_initial_data(description=comparison.table(), promote=False)
    try:
        answer = pause_flow_run(wait_for_input=question, timeout=int(rules.wait_hours * 3600))
    except FlowPauseTimeout:
        return False
    if not answer.promote:
        run.registry.note("refused", challenger, f"by a person: {answer.because}", comparison.records())
        return False
    return decide(run, champion, challenger, comparison, f"approved by a person: {answer.because}")


def run_retrain(stages: tuple[str, ...], params: Path | None) -> bool:
    """Run the flow from the command line. Returns whether the challenger is the champion now."""
    _check_stages(stages)
    with _no_tracebacks_of_user_errors():
        return retrain(stages, str(params) if params else None)


def run_judgement(number: int) -> bool:
    """Run the flow `judge` from the command line. Returns whether the release is the champion now."""
    with _no_tracebacks_of_user_errors():
        return judge_again(number)


def _check_stages(stages: Iterable[str]) -> None:
    """Raise UserError for an unknown stage."""
    if unknown := set(stages) - set(STAGES):
        raise UserError(f"stage {', '.join(sorted(unknown))} is unknown; expected some of {', '.join(STAGES)}")


@contextmanager
def _no_tracebacks_of_user_errors() -> Iterator[None]:
    """Prefect logs a traceback of every error. The command line prints what a user can mend, in one line."""

    def is_wanted(record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], UserError))

    loggers = [logging.getLogger(f"prefect.{name}") for name in ("flow_runs", "task_runs")]
    for logger in loggers:
        logger.addFilter(is_wanted)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_wanted)


def _added_sources(run: Retraining, before: Release) -> list[Source]:
    """The added recordings and imported inputs that the champion does not name, with their licences."""
    recordings = [
        Source(
            f"recordings {c.name}: {c.speakers} speakers, {c.seconds:.0f} s; consent: {c.consent}",
            "audio, motion",
            c.licence,
        )
        for c in _added_sets(run)
    ]
    sources = [*recordings, *input_sources(run.copy.folder)]
    return [source for source in sources if source not in before.sources]


def _added_sets(run: Retraining) -> list[SetCard]:
    return read_cards(run.copy.folder / run.params.speech.added) if run.params.speech.added else []
