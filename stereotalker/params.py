"""params.yaml as typed objects: read here and nowhere else. Unknown keys are errors; a stage gets its own section."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stereotalker.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
Scale = Literal["tiny", "mini"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Training(Section):
    steps: int = Field(gt=0)
    batch: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    seed: int


class BodyParams(Section):
    file: Path
    reader: Literal["smplx", "native"]
    betas: int = Field(gt=0, le=300)
    adults: int
    seed: int


class SpeechParams(Section):
    sentences: Path
    languages: list[str]
    utterances: int
    held_out: int
    recordings: Path | None
    seed: int


class PeopleParams(Section):
    identities: int
    held_out: int
    frames: int
    size: int
    swing: float
    wrong: float
    avatars: dict[str, int]
    avatar_size: int
    seed: int


class AudioParams(Section):
    loudness: float = Field(ge=-60, le=-5)
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
    lora_rank: int
    performances: int
    word_dropout: float
    body_gain: float = Field(ge=0, le=4)
    steps: int
    scheduler: str
    training: Training


class MaskParams(Section):
    channels: list[int]
    training: Training


class RenderParams(Section):
    patch: int
    channels: list[int]
    heads: int
    reference_width: int
    view_experts: int
    steps: int
    scheduler: str
    segment: int
    batch: int
    noise_period: int
    training: Training


class EvaluateParams(Section):
    people: int
    utterances: int
    seed: int
    gates: dict[str, float]


class VideoParams(Section):
    crf: int = Field(ge=0, le=51)
    preset: str
    audio_kbps: int


class ProduceParams(Section):
    workers: int = Field(gt=0)
    threads: int = Field(gt=0)
    deaths: int = Field(gt=0)
    segment_timeout: float = Field(gt=0)


class Params(Section):
    scale: Scale
    body: BodyParams
    speech: SpeechParams
    people: PeopleParams
    audio: AudioParams
    motion: MotionParams
    masks: MaskParams
    render: RenderParams
    evaluate: EvaluateParams
    video: VideoParams
    produce: ProduceParams


def load_params(path: Path | None = None) -> Params:
    """Read params.yaml (default: the one in the working directory, else the project's own). Raises UserError."""
    path = path or next((p for p in (Path("params.yaml"), ROOT / "params.yaml") if p.is_file()), Path("params.yaml"))
    try:
        raw = yaml.safe_load(path.read_text())
        if not isinstance(raw, dict):
            raise UserError(f"{path}: expected sections like `body:` and `audio:`, found {type(raw).__name__}")
        scale = raw.get("scale")
        for section in raw.values():
            if isinstance(section, dict):
                own = {name: section.pop(name, None) for name in ("tiny",)}
                section.update(own.get(scale) or {})
        return Params.model_validate(raw)
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path} is not a file; expected params.yaml in the working directory or beside the package") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise UserError(f"{path}: {faults}") from None


def resolve(path: Path) -> Path:
    """A path of params.yaml: as given if it exists, else relative to the project's root."""
    return path if path.is_absolute() or path.exists() else ROOT / path
