"""The data card of a release, as Markdown: what its trainings heard and saw, what was refused, and what judged it."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from stereotalker.dataset.recordings import SetCard
from stereotalker.dataset.speech_corpus import PARTS, REJECTED, Utterance, read_index
from stereotalker.dataset.test_set import CARD as TEST_CARD
from stereotalker.releases.release import Source

_PART_NAMES = dict(zip(PARTS, ("training", "choice of numbers"), strict=True))  # what a part serves
_MOST_REASONS = 8  # reasons of refusal that are named


def data_card(speech: Path, people: Path, test_set: Path, added: list[SetCard], inputs: list[Source]) -> str:
    """The card of the data in the folders of the stages of these names; speech and people may be missing.

    added: the sets of recordings of the studio's own; inputs: what was imported. Raises OSError without a test set.
    """
    parts = ["# StereoTalker, data card", *_speech(speech), *_added(added), *_inputs(inputs), *_people(people)]
    parts += _test_set(test_set)
    return "\n".join(parts) + "\n"


def _speech(folder: Path) -> Iterator[str]:
    yield from ("", "## Speech", "")
    if not (folder / PARTS[0]).is_dir():
        yield "Not made by this retraining: the champion's weights that hear stay as they are."
        return
    yield from ("| for | kind | language | utterances | voices | hours |", "|---|---|---|---|---|---|")
    for part in PARTS:
        groups = defaultdict[tuple[str, str], list[Utterance]](list)
        for row in read_index(folder / part):
            groups[row.kind, row.language].append(row)
        for (kind, language), rows in sorted(groups.items()):
            voices, hours = len({row.voice for row in rows}), sum(row.seconds for row in rows) / 3600
            yield f"| {_PART_NAMES[part]} | {kind} | {language} | {len(rows)} | {voices} | {hours:.3f} |"
    lines = (folder / REJECTED).read_text(encoding="utf-8").splitlines()
    found = (json.loads(line)["reason"] for line in lines)
    reasons = Counter(
        reason for reason in found if "is not in speech.languages" not in reason
    )  # nobody asked for these
    yield from ("", f"Refused: {reasons.total()}.", "")
    yield from (f"- {count} times: {reason}" for reason, count in reasons.most_common(_MOST_REASONS))


def _added(cards: list[SetCard]) -> Iterator[str]:
    yield from ("", "## Recordings of the studio's own", "")
    if not cards:
        yield "None."
        return
    yield from (
        "| set | recordings | speakers | minutes | licence | consent | added |",
        "|---|---|---|---|---|---|---|",
    )
    for card in cards:
        yield (
            f"| {card.name} | {card.recordings} | {card.speakers} | {card.seconds / 60:.1f} | {card.licence} "
            f"| {card.consent} | {card.added} |"
        )


def _inputs(sources: list[Source]) -> Iterator[str]:
    if sources:
        yield from ("", "## Imported inputs", "", "| input | use | licence |", "|---|---|---|")
    yield from (f"| {source.source} | {source.use} | {source.licence} |" for source in sources)


def _people(folder: Path) -> Iterator[str]:
    yield from ("", "## Synthetic people", "")
    counts = {part: len(list((folder / part).glob("people-*.tar"))) for part in PARTS}
    if any(counts.values()):
        yield f"{counts[PARTS[0]]} to train on, {counts[PARTS[1]]} held out. All are generated adults."
    else:
        yield "Not made by this retraining."


def _test_set(folder: Path) -> Iterator[str]:
    card = json.loads((folder / TEST_CARD).read_text(encoding="utf-8"))
    yield from ("", "## Test set", "")
    yield (
        f"Version {card['version']}, digest {card['digest']}: {card['utterances']} utterances, {card['people']} "
        "people. It shares no voice, sentence, recording or person with the data above."
    )
