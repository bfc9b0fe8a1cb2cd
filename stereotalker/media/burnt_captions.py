"""Draws captions into the frames of a video, within the safe area, with the word that is spoken highlighted.

T frames of H x W px with C channels, 3 or 4 with straight alpha.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont, features
from pydantic import Field

from stereotalker.errors import ClipError
from stereotalker.media.stereo import Stereo
from stereotalker.records import Timed
from stereotalker.store.digests import file_digest
from stereotalker.validation import StrictModel

_WHITE, _HIGHLIGHT, _OUTLINE = (255, 255, 255), (255, 214, 10), (0, 0, 0)
_OUTLINE_SHARE = 0.09  # width of the outline over the height of the letters
_LINE_HEIGHT = 1.25  # distance of two lines over the height of the letters
_USUAL_TEXT = "The usual text of a caption, with Capitals, commas and words."  # tells how wide letters are
_MIN_PX = 8  # letters that are smaller cannot be read
# Scripts whose letters join or change their order, which Pillow leaves to Raqm.
_SHAPED = {"ARABIC", "HEBREW", "DEVANAGARI", "BENGALI", "TAMIL", "THAI", "TELUGU", "GUJARATI", "KHMER", "SYRIAC"}


class BurntCaptions(StrictModel):
    """How captions are drawn into the pictures."""

    size: float = Field(0.055, ge=0.02, le=0.15, description="height of the letters over the picture's smaller side")
    position: Literal["bottom", "top"] = Field("bottom", description="where they stand")
    margin: float = Field(0.07, ge=0, le=0.3, description="distance from the edge over the height of the picture")
    highlight: bool = Field(False, description="whether the word that is spoken is coloured")
    font: Path | None = Field(
        None, description="a TrueType or OpenType file; null: DejaVu Sans, which has no Han, kana, Hangul or Devanagari"
    )

    def identity(self) -> list:
        """What the drawn letters depend on beside the text, for store keys."""
        return [self.model_dump(mode="json", exclude={"font"}), file_digest(_font_file(self))]


@dataclass(frozen=True)
class Caption:
    """Text that is shown at a time."""

    start: float  # s
    end: float  # s
    lines: tuple[tuple[Timed, ...], ...]  # the words of each line, with punctuation
    texts: tuple[str, ...]  # of the lines, with the spaces between the words
    speaker: str = ""  # who says it, if several people speak

    @property
    def text(self) -> str:
        """The lines, with line breaks between them."""
        return "\n".join(self.texts)

    def moved(self, seconds: float, speaker: str) -> Caption:
        """The caption so much later, said by somebody."""
        lines = tuple(
            tuple(Timed(word.text, word.start + seconds, word.end + seconds) for word in line) for line in self.lines
        )
        return Caption(self.start + seconds, self.end + seconds, lines, self.texts, speaker)


def check_font(text: str, style: BurntCaptions) -> None:
    """Raise ClipError if the font cannot be read, or lacks a letter of the text."""
    path = _font_file(style)
    try:
        face = FT2Font(str(path))
    except (OSError, RuntimeError) as error:
        raise ClipError(f"captions.font {path}: {error}; expected a TrueType or OpenType file") from None
    if missing := sorted({c for c in text if not c.isspace() and not face.get_char_index(ord(c))}):
        letters = " ".join(missing[:10])
        raise ClipError(f"captions: the font {path.name} has no {letters}; name one that does as captions.font")
    scripts = {unicodedata.name(c, "UNKNOWN").split()[0] for c in text if c.isalpha()}
    if scripts & _SHAPED and not features.check("raqm"):
        raise ClipError("captions: Pillow lacks Raqm here, which joins the letters of this script; leave `burn` out")


def line_columns(style: BurntCaptions, size: tuple[int, int]) -> int:
    """How many columns of text a picture of a size (height, width) has room for, at least 8."""
    font = _font(_font_file(style), _letters(style, size))
    return max(8, int(_room(style, size) / (font.getlength(_USUAL_TEXT) / len(_USUAL_TEXT))))


def _letters(style: BurntCaptions, size: tuple[int, int]) -> int:
    """Height of the letters in px."""
    return max(_MIN_PX, round(style.size * min(size)))


def _room(style: BurntCaptions, size: tuple[int, int]) -> float:
    """Width in px that lines may have."""
    return size[1] * (1 - 2 * min(style.margin, 0.07))


def draw_captions(
    chunks: Iterable[np.ndarray], captions: Sequence[Caption], style: BurntCaptions, fps: float, stereo: Stereo | None
) -> Iterator[np.ndarray]:
    """Yield the chunks u8 [T, H, W, C] of a clip with captions, in each eye at the same place.

    fps: frame rate. Lines that are wider than the picture are drawn with smaller letters.
    """
    first = 0
    for chunk in chunks:
        times = (first + np.arange(len(chunk)) + 0.5) / fps
        first += len(chunk)
        shown = [next((c for c in captions if c.start <= time < c.end), None) for time in times]
        if any(shown):
            chunk = chunk.copy()
            for frame, caption, time in zip(chunk, shown, times, strict=True):
                if caption:
                    for eye in _eyes(frame, stereo):
                        _draw(eye, _layer(caption, _spoken_word(caption, time, style), style, eye.shape[:2]))
        yield chunk


def _eyes(frame: np.ndarray, stereo: Stereo | None) -> tuple[np.ndarray, ...]:
    """Views of the pictures of a frame."""
    if stereo is None:
        return (frame,)
    return tuple(np.split(frame, 2, axis=1 if stereo.layout == "side-by-side" else 0))


def _spoken_word(caption: Caption, time: float, style: BurntCaptions) -> int:
    """Number of the word in the caption that is spoken, -1 for none."""
    words = [word for line in caption.lines for word in line]
    return max((k for k, word in enumerate(words) if word.start <= time), default=-1) if style.highlight else -1


def _draw(picture: np.ndarray, layer: np.ndarray) -> None:
    """Lay a layer u8 [H, W, 4] with straight alpha over a picture u8 [H, W, C], in place."""
    rows = np.flatnonzero(layer[..., 3].any(1))
    if not len(rows):
        return
    part = slice(rows[0], rows[-1] + 1)
    alpha = layer[part, :, 3:].astype(np.uint16)
    below = picture[part, :, :3]
    picture[part, :, :3] = (layer[part, :, :3] * alpha + below * (255 - alpha) + 127) // 255
    if picture.shape[-1] == 4:
        picture[part, :, 3] = np.maximum(picture[part, :, 3], layer[part, :, 3])


@cache
def _font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), size)


def _font_file(style: BurntCaptions) -> Path:
    return style.font or Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"


@lru_cache(maxsize=4)
def _layer(caption: Caption, spoken: int, style: BurntCaptions, size: tuple[int, int]) -> np.ndarray:
    """A caption drawn for pictures of a size (height, width), u8 [H, W, 4]. spoken: a coloured word's number, or -1."""
    height, width = size
    letters = _letters(style, size)
    widest = max(_font(_font_file(style), letters).getlength(text) for text in caption.texts)
    # Lines are cut to the room by their number of letters; of broad letters a few less have room.
    letters = max(1, int(letters * min(1.0, _room(style, size) / widest)))
    font, step = _font(_font_file(style), letters), round(letters * _LINE_HEIGHT)
    layer = Image.new("RGBA", (width, height))
    draw, outline = ImageDraw.Draw(layer), max(1, round(letters * _OUTLINE_SHARE))
    block = step * len(caption.lines)
    y = round(style.margin * height) if style.position == "top" else round((1 - style.margin) * height) - block
    number = 0
    for words, text in zip(caption.lines, caption.texts, strict=True):
        x = (width - font.getlength(text)) / 2
        draw.text((x, y), text, _WHITE, font, stroke_width=outline, stroke_fill=_OUTLINE)
        if number <= spoken < number + len(words):
            word = words[spoken - number].text
            before = font.getlength(text[: _position(words, text, spoken - number)])
            if any(unicodedata.bidirectional(c) in ("R", "AL") for c in text):  # the first word stands on the right
                before = font.getlength(text) - before - font.getlength(word)
            draw.text((x + before, y), word, _HIGHLIGHT, font)
        number += len(words)
        y += step
    return np.asarray(layer)


def _position(words: Sequence[Timed], text: str, number: int) -> int:
    """Where in the text of a line the word of this number begins."""
    position = 0
    for word in words[:number]:
        position = text.index(word.text, position) + len(word.text)
    return text.index(words[number].text, position)
