"""What the tests of rendering and of its training share."""

from stereotalker.synthetic.actor import build_actor
from stereotalker.synthetic.takes import CaptureSetup, capture_take
from stereotalker.training.samples import to_sample


def training_sample(tiny_models, speech, fit_error):
    """A take of one frame from three cameras at 64 x 64 px. fit_error: how wrong the fit is, from 0 to 1."""
    take = capture_take(
        build_actor(1, tiny_models.body, 64, 1),
        tiny_models.body,
        speech,
        0,
        0,
        CaptureSetup(size=64, cameras=3, frames=1, fps=10.0, swing=20.0, supersample=1),
    )
    return to_sample(take, tiny_models.body, 0, fit_error)
