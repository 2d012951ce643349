"""Where a camera has brought the view: the scenery of a scene from every place of its pan, to compare frames with."""

from __future__ import annotations

import numpy as np

from fkv.pocket.paint import Renderer
from fkv.pocket.world import HEIGHT, WIDTH, Scene
from fkv.text.motion import PAN

Array = np.ndarray
SIDE = 2  # pixels are taken in boxes of SIDE x SIDE
CUT = 40.0  # no pixel counts for more grey levels: objects are not scenery
DELAYS = np.arange(-60.0, 61.0, 4.0)  # pixel frames
TRUST = 24.0  # pixel frames of surprise that weigh as much as one grey level of misfit in every frame


class Panorama:
    """Small pictures of a panning scene without its objects, one per world pixel of the pan."""

    def __init__(self, scene: Scene, painter: Renderer):
        self.scene = scene
        self.places = np.arange(0.0, PAN + 1) * (1 if scene.camera == "right" else -1)
        self.views = small(painter.scenery(self.places))

    def late(self, frames: Array, times: Array, expected: float) -> float:
        """By how many pixel frames the camera of frames uint8 [n, 80, 128, 3] lags behind the scene's at `times` [n]: what fits the scenery
        best and is not far from what was `expected`."""
        misfit = np.abs(small(frames)[:, None] - self.views).clip(0, CUT).mean((2, 3, 4))
        delays = np.append(DELAYS, expected)
        seen = np.abs(np.asarray(self.scene.camera_x(times[:, None] - delays))).round().astype(int)
        cost = np.take_along_axis(misfit, seen, axis=1).mean(0) + np.square((delays - expected) / TRUST)
        return float(delays[cost.argmin()])


def small(frames: Array) -> Array:
    """Frames uint8 [n, 80, 128, 3] as float32 [n, 40, 64, 3], boxes averaged."""
    boxes = frames.reshape(-1, HEIGHT // SIDE, SIDE, WIDTH // SIDE, SIDE, 3)
    return boxes.astype(np.float32).mean((2, 4))
