"""Where a camera has brought the view: the scenery of a scene from every place of its pan, to compare frames with."""

from __future__ import annotations

import numpy as np

from fkv.pocket.paint import Renderer
from fkv.pocket.world import HEIGHT, WIDTH, Scene
from fkv.text.motion import PAN

Array = np.ndarray
SIDE = 2  # pixels are taken in boxes of SIDE x SIDE
CUT = 40.0  # no pixel counts for more grey levels: objects are not scenery
STEP = 0.5  # world pixels between the views
SURPRISES = np.arange(-60.0, 61.0)  # pixel frames beside what was expected
ADRIFT = 0.92  # of the misfit of all places that of the best, beyond which it tells nothing; drawn clips have up to 0.55
TRUST = 24.0  # pixel frames of surprise that weigh as much as one grey level of misfit in every frame


class Panorama:
    """Small pictures of a panning scene without its objects, two per world pixel of the pan."""

    def __init__(self, scene: Scene, painter: Renderer):
        self.scene = scene
        self.places = np.arange(0.0, PAN + STEP, STEP) * (1 if scene.camera == "right" else -1)
        self.views = small(painter.scenery(self.places))

    def late(self, frames: Array, times: Array, expected: float) -> tuple[float, bool]:
        """By how many pixel frames the camera of frames uint8 [n, 80, 128, 3] lags behind the scene's at `times` [n]: what fits the scenery
        best and is not far from what was `expected`; and whether no place of the pan fits better than others, so soft is the scenery, and
        the camera is where it was expected."""
        misfit = np.abs(small(frames)[:, None] - self.views).clip(0, CUT).mean((2, 3, 4))
        if misfit.min(1).mean() > ADRIFT * misfit.mean():
            return expected, True
        delays = expected + SURPRISES
        seen = (np.abs(np.asarray(self.scene.camera_x(times[:, None] - delays))) / STEP).round().astype(int)
        cost = np.take_along_axis(misfit, seen, axis=1).mean(0) + np.square(SURPRISES / TRUST)
        return float(delays[cost.argmin()]), False


def small(frames: Array) -> Array:
    """Frames uint8 [n, 80, 128, 3] as float32 [n, 40, 64, 3], boxes averaged."""
    boxes = frames.reshape(-1, HEIGHT // SIDE, SIDE, WIDTH // SIDE, SIDE, 3)
    return boxes.astype(np.float32).mean((2, 4))
