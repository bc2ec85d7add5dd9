"""A pinhole camera above a flat street."""

from typing import Callable, Tuple

import numpy as np


class Camera:
    """Projects the world into a picture of `height` x `width` pixels.

    Args:
        focal: focal length over the picture's width.
        centre: column of the vanishing point over the width.
        horizon: row of the horizon over the height.
        above: height of the camera in metres.
    """

    def __init__(self, height: int, width: int, focal: float, centre: float, horizon: float, above: float):
        self.height, self.width = height, width
        self.focal_px = focal * width
        self.centre_px, self.horizon_px = centre * width, horizon * height
        self.above = above

    def project(self, points) -> np.ndarray:
        """(N, 3) metres -> (N, 2) pixels; what lies behind the camera is moved in front of it."""
        points = np.asarray(points, np.float64)
        scale = self.focal_px / np.maximum(points[:, 2], 0.5)
        return np.stack([self.centre_px + points[:, 0] * scale,
                         self.horizon_px + (self.above - points[:, 1]) * scale], axis=1)

    def plane(self, x: float, z: float, yaw: float = 0.0, y: float = 0.0) -> Callable:
        """The map from an upright plane's own (right, up) metres to pixels.

        The plane stands at (x, y, z); yaw 0 faces the camera, pi / 2 runs along the street.
        """
        across, along = np.cos(yaw), np.sin(yaw)

        def to_pixels(points) -> np.ndarray:
            points = np.asarray(points, np.float64)
            return self.project(np.stack([x + across * points[:, 0], y + points[:, 1],
                                          z + along * points[:, 0]], axis=1))

        return to_pixels

    def ground(self, points) -> np.ndarray:
        """(N, 2) metres (x, z) on the ground -> pixels."""
        points = np.asarray(points, np.float64)
        return self.project(np.insert(points, 1, 0.0, axis=1))

    def ground_at(self, box: Tuple[int, int, int, int]) -> Tuple[np.ndarray, np.ndarray]:
        """The ground's x and z (both (h, w) float32) seen by the pixels of box (x0, y0, x1, y1)."""
        x0, y0, x1, y1 = box
        rows = np.maximum(np.arange(y0, y1) + 0.5 - self.horizon_px, 0.5)
        z = (self.focal_px * self.above / rows).astype(np.float32)[:, None]
        columns = ((np.arange(x0, x1) + 0.5 - self.centre_px) / self.focal_px).astype(np.float32)
        return columns * z, np.broadcast_to(z, (y1 - y0, x1 - x0))

    def pixels(self, metres: float, z: float) -> float:
        """Return the number of pixels that `metres` take at depth z."""
        return metres * self.focal_px / z

    def at_least(self, metres: float, z: float, share: float) -> float:
        """`metres`, or what fills `share` of the picture's width at depth z if that is more."""
        return max(metres, share * self.width * z / self.focal_px)
