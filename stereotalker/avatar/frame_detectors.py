"""Detectors that look at finished frames, to measure them: jaws, hands, faces and people, by MediaPipe."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stereotalker.avatar.mediapipe_detector import (
    HAND_MODELS,
    load_mediapipe,
    pad_to_square,
    silence_stderr,
    to_pixels,
)


class JawTracker:
    """Measures how far the jaw is open in finished frames, by MediaPipe's face landmarker.

    folder: where the model files are. Raises UserError if package, model files or system libraries are missing.
    """

    def __init__(self, folder: Path):
        make, self._image = load_mediapipe(folder)
        self._face = make("FaceLandmarker", "face_landmarker.task", output_face_blendshapes=True)

    def __enter__(self) -> JawTracker:
        return self

    def __exit__(self, *_) -> None:
        with silence_stderr():
            self._face.close()

    def jaw(self, frames: np.ndarray) -> np.ndarray:
        """The ARKit action jawOpen of frames u8 [T, H, W, 3], f32 [T] in 0..1; nan where no face is found."""
        jaw_open = np.full(len(frames), np.nan, np.float32)
        with silence_stderr():
            for t, frame in enumerate(frames):
                shapes = self._face.detect(self._image(pad_to_square(frame))).face_blendshapes
                if shapes:
                    jaw_open[t] = next(s.score for s in shapes[0] if s.category_name == "jawOpen")
        return jaw_open


class HandFinder:
    """Finds hands, faces and people in finished pictures, to measure them.

    folder: where the model files are. Raises UserError if package, model files or system libraries are missing.
    """

    def __init__(self, folder: Path):
        make, self._image = load_mediapipe(folder)
        hands = next(name for name in HAND_MODELS if (folder / name).is_file())
        self._hand = make("HandLandmarker", hands, num_hands=1)
        self._face = make("FaceLandmarker", "face_landmarker.task")
        self._person = make("ImageSegmenter", "selfie_segmenter.tflite", output_confidence_masks=True)

    def __enter__(self) -> HandFinder:
        return self

    def __exit__(self, *_) -> None:
        with silence_stderr():
            for task in (self._hand, self._face, self._person):
                task.close()

    def hand(self, picture: np.ndarray) -> np.ndarray | None:
        """The 21 points f32 [21, 2] px of a hand in a square picture u8 [S, S, 3]; None if none is found."""
        with silence_stderr():
            found = self._hand.detect(self._image(picture)).hand_landmarks
        return to_pixels(found[0], len(picture)) if found else None

    def count_hands_and_faces(self, picture: np.ndarray) -> int:
        """How many of the two, a hand and a face, are found in a picture u8 [H, W, 3]."""
        image = self._image(pad_to_square(picture))
        with silence_stderr():
            return bool(self._hand.detect(image).hand_landmarks) + bool(self._face.detect(image).face_landmarks)

    def person_share(self, picture: np.ndarray) -> float:
        """Share of the pixels of a picture u8 [H, W, 3] that show a person, 0 to 1."""
        H, W = picture.shape[:2]
        with silence_stderr():
            masks = self._person.segment(self._image(pad_to_square(picture))).confidence_masks
        return float((np.squeeze(masks[0].numpy_view())[:H, :W] > 0.5).mean())
