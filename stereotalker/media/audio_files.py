"""Reads the sound of any file that ffmpeg can decode, and normalizes and converts it.

Files are decoded with ffmpeg-python and the ffmpeg binary in imageio-ffmpeg's wheel.
"""

from __future__ import annotations

import errno
import io
import os
import re
import tempfile
import wave
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import ffmpeg
import imageio_ffmpeg
import numpy as np
from av.stream import Disposition
from scipy.io import wavfile
from scipy.signal import resample_poly

from stereotalker.errors import ClipError
from stereotalker.records import SAMPLE_RATE
from stereotalker.validation import is_text

OUTPUT_RATE = 48_000  # Hz of the sound in a finished clip
FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
FULL_DISK = os.strerror(errno.ENOSPC)  # as ffmpeg reports it
MIN_SECONDS, MAX_SECONDS = 0.2, 3 * 3600.0  # of sound in an input file
_MAX_PEAK = 0.97  # of full scale, after normalization
_BLOCK_S = 0.4  # seconds of the shortest sound that ITU-R BS.1770 can measure
_SILENCE_LUFS = -70.0  # what ebur128 reports if no block is above the standard's absolute gate
_MIN_PEAK = 1e-5  # of full scale, below which a sound is silent
_STEREO = "aformat=channel_layouts=stereo"

# ffmpeg's filters that measure a sound, and where their reports hold the figures.
_MEASURES = (
    "astats=measure_perchannel=none:measure_overall=Number_of_NaNs+Number_of_Infs,ebur128=peak=sample:framelog=quiet"
)
_FIGURES = {
    "lufs": re.compile(r"\bI:\s+(\S+) LUFS"),
    "peak": re.compile(r"\bPeak:\s+(\S+) dBFS"),
    "nans": re.compile(r"Number of NaNs: (\S+)"),
    "infs": re.compile(r"Number of Infs: (\S+)"),
}

_DECIMATION = OUTPUT_RATE // SAMPLE_RATE
_CHUNK = 60 * OUTPUT_RATE  # samples that are resampled at once; a multiple of _DECIMATION, as is the margin
_MARGIN = 100 * _DECIMATION  # samples on both sides that the filter of the resampling may need


class SoundPart(NamedTuple):
    """What is used of the sound of a file."""

    start: float = 0.0  # s
    seconds: float | None = None  # None: to the end
    speaker: int | None = None  # number of a sound track, or else of a channel, from 1; None: what players play


ALL = SoundPart()


def write_normalized(path: Path, target: float, out: Path, part: SoundPart = ALL) -> float:
    """Write the speech of a file as a 16-bit stereo WAV file at OUTPUT_RATE, at a loudness of `target` LUFS.

    Loudness is that of ITU-R BS.1770, as ffmpeg's filter ebur128 measures it. Peaks reach at most 0.97 of full scale.
    Returns the loudness of the result, -inf for silence, which is kept as it is. ffmpeg reads the file twice and writes
    to the disk, so that hours of sound take no memory. A sound track that begins later than the pictures begins with
    silence. part: what is written. Raises ClipError, which says what is wrong with the file.
    """
    stream = _cut(path, _speech_stream(path, part.speaker), part)
    layout = _STEREO if stream.channel is None else f"pan=stereo|c0=c{stream.channel}|c1=c{stream.channel}"
    measured = _measure(path, stream, layout)
    if not measured.peak and stream.channels > 2 and stream.channel is None:
        # The conversion to stereo leaves out some channels, such as that of low frequencies.
        layouts = [f"pan=stereo|c0=c{k}|c1=c{k}" for k in range(stream.channels)]
        measured, layout = max(((_measure(path, stream, each), each) for each in layouts), key=lambda m: m[0].peak)
    gain_db = 0.0
    if np.isfinite(measured.lufs):
        gain_db = min(target - measured.lufs, 20 * np.log10(_MAX_PEAK / max(measured.peak, 1e-9)))
    filters = _chain(stream, [layout, f"volume={gain_db}dB"])
    output = ffmpeg.output(
        _input(path, stream), str(out.absolute()), f="wav", acodec="pcm_s16le", rf64="auto", af=filters
    )
    _run(path, output.overwrite_output())
    seconds = len(read_wav(out)) / OUTPUT_RATE
    if not MIN_SECONDS <= seconds <= MAX_SECONDS:
        raise ClipError(f"{path} lasts {seconds:.2f} s; expected {MIN_SECONDS} s to {MAX_SECONDS / 3600:.0f} h")
    return float(measured.lufs + gain_db)


def write_mixed(tracks: Sequence[Sequence[tuple[Path, float]]], target: float, out: Path) -> float:
    """Mix 16-bit stereo WAV files at OUTPUT_RATE into one, as `write_normalized` writes it. Returns as that.

    tracks: files that follow each other, each with its beginning in s, at rising times; all tracks sound together. What
    has been read is written to the disk.
    """
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        files: list[Path] = []
        for track in tracks:
            files.append(Path(folder) / f"{len(files)}.wav")
            with wave.open(str(files[-1]), "wb") as file:
                file.setparams((2, 2, OUTPUT_RATE, 0, "NONE", ""))
                written = 0
                for path, start in track:
                    silence = max(round(start * OUTPUT_RATE) - written, 0)
                    for first in range(0, silence, _CHUNK):
                        file.writeframesraw(bytes(4 * min(_CHUNK, silence - first)))
                    written += silence
                    samples = read_wav(path)
                    for first in range(0, len(samples), _CHUNK):
                        file.writeframesraw(samples[first : first + _CHUNK].tobytes())
                    written += len(samples)
        sounds = [ffmpeg.input(str(file)).audio for file in files]
        mixed = ffmpeg.filter(sounds, "amix", inputs=len(sounds), duration="longest", normalize=0)
        whole = Path(folder) / "mixed.wav"
        _run(whole, ffmpeg.output(mixed, str(whole), f="wav", acodec="pcm_f32le", rf64="auto", ar=OUTPUT_RATE))
        return write_normalized(whole, target, out)


def loudness(path: Path) -> float:
    """Loudness of a file's speech in LUFS, see `write_normalized`; -inf for silence. Raises ClipError."""
    return _measure(path, _speech_stream(path), _STEREO).lufs


def read_wav(path: Path) -> np.ndarray:
    """Samples of a 16-bit WAV file, i16 [N, C], mapped into memory."""
    _, samples = wavfile.read(path, mmap=True)
    return samples if samples.ndim == 2 else samples[:, None]


def speech_samples(path: Path) -> np.ndarray:
    """The sound of a file that `write_normalized` wrote, as mono f32 [S] at SAMPLE_RATE.

    If the channels are in opposite phase and their mean would cancel them, the louder one is used instead.
    """
    length = len(read_wav(path))
    spans = [(start, min(start + _CHUNK, length)) for start in range(0, length, _CHUNK)]
    # The file is mapped anew for every chunk, so that its pages do not stay in memory.
    energy = np.sum([_energies(read_wav(path)[start:stop]) for start, stop in spans], 0)
    is_cancelled = energy[0] < 0.1 * energy[1:].max()
    channel = int(energy[1:].argmax())
    samples = np.empty(-(-length // _DECIMATION), np.float32)
    for start, stop in spans:
        # The filter of the resampling reaches over the edges of a chunk.
        low, high = max(start - _MARGIN, 0), min(stop + _MARGIN, length)
        part = read_wav(path)[low:high].astype(np.float32) / 32768
        mono = part[:, channel] if is_cancelled else part.mean(1)
        count, first = -(-(stop - start) // _DECIMATION), (start - low) // _DECIMATION
        begin = start // _DECIMATION
        np.clip(resample_poly(mono, 1, _DECIMATION)[first : first + count], -1, 1, samples[begin : begin + count])
    return samples


def media_seconds(path: Path, part: SoundPart = ALL) -> float:
    """Seconds of sound in a file or a part of it, from its header, or else from its packets.

    Raises ClipError as `write_normalized`.
    """
    seconds = _cut(path, _speech_stream(path, part.speaker), part).seconds
    if not MIN_SECONDS <= seconds <= MAX_SECONDS:
        raise ClipError(f"{path} lasts {seconds:.2f} s; expected {MIN_SECONDS} s to {MAX_SECONDS / 3600:.0f} h")
    return seconds


class _Stream(NamedTuple):
    """The sound track of a file that holds the speech."""

    number: int  # among the file's sound tracks
    channels: int
    seconds: float
    channel: int | None = None  # of these, which holds the speech; None: all of them
    cut: tuple[str, ...] = ()  # ffmpeg's filters that take a part of it


class _Measured(NamedTuple):
    lufs: float
    peak: float  # of full scale


def _speech_stream(path: Path, speaker: int | None = None) -> _Stream:
    """The sound track that players choose: the one marked as default, or else the first. Raises ClipError.

    speaker: another sound track, or in a file with one track a channel of it, from 1.
    """
    _check_readable(path)
    try:
        with av.open(str(path.absolute())) as container:
            streams = container.streams.audio
            if not streams:
                raise ClipError(
                    f"{path} cannot be read as audio (it has no audio stream); expected a file with an audio stream"
                )
            index = next((k for k, s in enumerate(streams) if s.disposition & Disposition.default), 0)
            channel = None
            if speaker is not None:
                tracks, channels = len(streams), streams[index].channels
                if speaker > (tracks if tracks > 1 else channels):
                    has = f"{tracks} sound tracks" if tracks > 1 else f"one sound track of {channels} channel(s)"
                    raise ClipError(f"speaker {speaker}: {path} has {has}; expected a lower number")
                index, channel = (speaker - 1, None) if tracks > 1 else (index, speaker - 1)
            stream = streams[index]
            time_base = stream.time_base or Fraction(1, stream.rate)
            if stream.duration:
                seconds = float(stream.duration * time_base)
            elif container.duration:
                seconds = container.duration / av.time_base
            else:  # a file that was written to a pipe
                ends = [p.pts + (p.duration or 0) for p in container.demux(stream) if p.pts is not None]
                seconds = float(max(ends, default=0) * time_base)
            return _Stream(index, stream.channels, seconds, channel)
    except av.FFmpegError as error:
        raise ClipError(
            f"{path} cannot be read as audio ({error.strerror}); expected a file with an audio stream"
        ) from None


def _check_readable(path: Path) -> None:
    """Raise ClipError if the file does not exist or may not be read."""
    if not is_text(str(path)):
        raise ClipError(f"audio file {str(path)!a}: the name is not UTF-8; rename it")
    if not path.is_file():
        raise ClipError(f"audio file {path} not found; expected an audio or video file")
    if not os.access(path, os.R_OK):
        raise ClipError(f"audio file {path} may not be read; change its permissions")


def _measure(path: Path, stream: _Stream, layout: str) -> _Measured:
    """Integrated loudness and peak of a sound track. A sound that is too short to be measured is repeated."""
    repeated = f"aloop=loop=-1:size={10 * OUTPUT_RATE},atrim=end={2 * _BLOCK_S}"
    filters = [layout, *([repeated] if stream.seconds < 2 * _BLOCK_S else []), _MEASURES]
    report = _run(path, ffmpeg.output(_input(path, stream), "-", f="null", af=_chain(stream, filters)), "info")
    found = {name: float(pattern.findall(report)[-1]) for name, pattern in _FIGURES.items()}
    if found["nans"] or found["infs"]:
        raise ClipError(f"{path} holds NaN or infinite samples; export it again")
    peak = 10 ** (found["peak"] / 20)
    return _Measured(found["lufs"] if found["lufs"] > _SILENCE_LUFS and peak > _MIN_PEAK else -np.inf, peak)


def _input(path: Path, stream: _Stream):
    # With an absolute path, a name like "10:30 call.wav" is not taken for a protocol.
    return ffmpeg.input(str(path.absolute()))[f"a:{stream.number}"]


def _chain(stream: _Stream, filters: list[str]) -> str:
    """A chain of ffmpeg's filters, behind those that set the rate, begin when the pictures do, and cut a part out."""
    return ",".join([f"aresample={OUTPUT_RATE}:first_pts=0", *stream.cut, *filters])


def _cut(path: Path, stream: _Stream, part: SoundPart) -> _Stream:
    """The part of a sound track, see `write_normalized`. Raises ClipError if it begins behind the track's end."""
    start, seconds, _ = part
    if start == 0 and seconds is None:
        return stream
    rest = stream.seconds - start
    if rest < MIN_SECONDS:
        raise ClipError(f"part begins at {start:g} s, but {path} lasts {stream.seconds:.2f} s")
    seconds = rest if seconds is None else min(seconds, rest)
    return stream._replace(seconds=seconds, cut=(f"atrim=start={start}:duration={seconds}", "asetpts=PTS-STARTPTS"))


def _run(path: Path, output, level: str = "error") -> str:
    """Run ffmpeg and return what it reports. Raises ClipError, or OSError if the disk is full."""
    try:
        command = [FFMPEG, "-nostdin", "-nostats", "-v", level]
        _, report = output.run(cmd=command, capture_stdout=True, capture_stderr=True)
    except ffmpeg.Error as error:
        reason = failure_reason(error.stderr)
        if FULL_DISK in reason:
            raise OSError(errno.ENOSPC, FULL_DISK) from None
        raise ClipError(f"{path} cannot be read as audio ({reason}); expected a file with an audio stream") from None
    return report.decode(errors="replace")


def failure_reason(report: bytes) -> str:
    """The line of ffmpeg's report that says why it failed: the last one, unless one tells of a full disk."""
    lines = report.decode(errors="replace").strip().splitlines() or ["no reason given"]
    return next((line.strip() for line in lines if FULL_DISK in line), lines[-1].strip())


def _energies(sound: np.ndarray) -> np.ndarray:
    """Sums of squares of a stretch i16 [N, 2]: of the mean of the channels, and of either channel."""
    left, right = sound.T.astype(np.float64)
    return np.array([(((left + right) / 2) ** 2).sum(), (left**2).sum(), (right**2).sum()])


def from_mono(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Convert mono f32 [S] at any sample rate to f32 [2, N] at OUTPUT_RATE."""
    common = np.gcd(OUTPUT_RATE, sample_rate)
    return np.tile(resample_poly(samples, OUTPUT_RATE // common, sample_rate // common).astype(np.float32), (2, 1))


def wav_bytes(samples: np.ndarray, sample_rate: int = OUTPUT_RATE) -> bytes:
    """The bytes of a 16-bit WAV file with mono sound f32 [N], or sound f32 [C, N] of C channels.

    Samples beyond -1..1 are clipped.
    """
    buffer = io.BytesIO()
    wavfile.write(buffer, sample_rate, np.rint(np.clip(samples, -1, 1).T * 32767).astype(np.int16))
    return buffer.getvalue()
