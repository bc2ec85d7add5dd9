"""Picture and polygons, drawn together so that they agree to the pixel."""

from typing import Callable, List, Optional, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from scenes.camera import Camera
from scenes.light import Light

SUBPIXEL_BITS = 4


def clip(points: np.ndarray, width: int, height: int) -> np.ndarray:
    """A polygon (N, 2) cut to one pixel around the picture (Sutherland and Hodgman, 1974)."""
    for axis, limit, sign in ((0, -1, 1), (0, width, -1), (1, -1, 1), (1, height, -1)):
        inside = sign * (points[:, axis] - limit) >= 0
        if inside.all():
            continue
        kept = []
        for index, point in enumerate(points):
            before = points[index - 1]
            if inside[index] != inside[index - 1]:
                share = (limit - before[axis]) / (point[axis] - before[axis])
                kept.append(before + share * (point - before))
            if inside[index]:
                kept.append(point)
        if not kept:
            return np.zeros((0, 2))
        points = np.array(kept)
    return points


def disc(x: float, y: float, radius: float, points: int = 20, squash: float = 1.0) -> np.ndarray:
    """A circle (or an ellipse, `squash` times as high) as a polygon."""
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.stack([x + radius * np.cos(angle), y + squash * radius * np.sin(angle)], axis=1)


def box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float64)


def limb(start, end, radius: float, end_radius: Optional[float] = None) -> np.ndarray:
    """Two discs and what lies between them."""
    both = np.concatenate([disc(*start, radius, 12), disc(*end, radius if end_radius is None else end_radius, 12)])
    return cv2.convexHull(both.astype(np.float32))[:, 0].astype(np.float64)


def fill(image: np.ndarray, points: np.ndarray, colour, smooth: bool = True) -> None:
    """Fill a polygon given in sub-pixels; pixel (0, 0) covers 0..1."""
    fixed = np.round((np.clip(points, -30000, 30000) - 0.5) * (1 << SUBPIXEL_BITS)).astype(np.int32)
    colour = [float(value) for value in np.atleast_1d(colour)]
    cv2.fillPoly(image, [fixed], colour, cv2.LINE_AA if smooth else cv2.LINE_8, SUBPIXEL_BITS)


class Sprite:
    """A drawing of one object: coloured polygons, the first at the bottom.

    Args:
        light: colours what is added.
        sunlit: the share of the sun that falls on the object.
    """

    def __init__(self, light: Light, sunlit: float = 0.5):
        self.light, self.sunlit = light, sunlit
        self.strokes = []

    def add(self, points: np.ndarray, colour, sunlit: Optional[float] = None, glows: bool = False,
            body: bool = True) -> None:
        """Add a polygon in pixels.

        Args:
            colour: RGB of the surface, or None to leave what is behind visible.
            glows: the colour is seen as it is.
            body: the polygon is part of the object's outline.
        """
        if colour is not None and not glows:
            colour = self.light.on(colour, self.sunlit if sunlit is None else sunlit)
        self.strokes.append((points, colour, body))


class Canvas:
    """The picture, and the objects (label, polygon) that it consists of.

    `objects` is in drawing order; `owners` holds for each pixel the number of the object that
    owns it (1 for the first), filled by the same rasteriser as cityscapesscripts' labels.
    """

    def __init__(self, camera: Camera, light: Light):
        self.camera, self.light = camera, light
        self.image = np.zeros((camera.height, camera.width, 3), np.uint8)
        self.owners = Image.new("I", (camera.width, camera.height), 0)
        self.drawer = ImageDraw.Draw(self.owners)
        self.objects: List[dict] = []

    def bounds(self, points: np.ndarray):
        """The pixels x0, y0, x1, y1 (ends excluded) that the points reach, or None."""
        low = np.floor(points.min(axis=0)).astype(int)
        high = np.ceil(points.max(axis=0)).astype(int) + 1
        x0, y0 = max(low[0], 0), max(low[1], 0)
        x1, y1 = min(high[0], self.camera.width), min(high[1], self.camera.height)
        return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None

    def add(self, label: str, points: np.ndarray, paint: Callable) -> None:
        """Add a polygon in pixels; paint(patch, box) colours a copy of its bounding box in place."""
        points = clip(np.asarray(points, np.float64), self.camera.width, self.camera.height)
        if len(points) < 3:
            return
        points = np.round(points).astype(int)
        limits = self.bounds(points)
        if limits is None:
            return
        x0, y0, x1, y1 = limits
        patch = self.image[y0:y1, x0:x1].copy()
        paint(patch, limits)
        self.own(label, points, patch, limits)

    def own(self, label: str, points: np.ndarray, patch: np.ndarray, limits) -> None:
        """Give the polygon's pixels to a new object and take their colours from the patch."""
        outline = [(int(x), int(y)) for x, y in points]
        self.objects.append({"label": label, "polygon": [list(point) for point in outline]})
        number = len(self.objects)
        self.drawer.polygon(outline, fill=number)
        x0, y0, x1, y1 = limits
        mine = np.asarray(self.owners.crop(limits)) == number
        self.image[y0:y1, x0:x1][mine] = patch[mine]

    def stamp(self, label: str, sprite: Sprite, z: float, instance: bool = True) -> None:
        """Draw a sprite seen at depth z; its outline becomes a polygon.

        Args:
            instance: keep the largest piece only, as one polygon is one object.
        """
        limits = self.bounds(np.concatenate([points for points, _, body in sprite.strokes if body]))
        if limits is None:
            return
        x0, y0, x1, y1 = limits
        patch = self.image[y0:y1, x0:x1].copy()
        shape = np.zeros(patch.shape[:2], np.uint8)
        veil = self.light.veil(z)
        for points, colour, body in sprite.strokes:
            moved = points - (x0, y0)
            if colour is not None:
                fill(patch, moved, (1 - veil) * np.asarray(colour, np.float32) + veil * self.light.haze)
            if body:
                fill(shape, moved, 255, smooth=False)
        pieces, _ = cv2.findContours(shape, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        pieces = sorted(pieces, key=cv2.contourArea, reverse=True)
        for piece in pieces[:1] if instance else pieces[:4]:
            outline = cv2.approxPolyDP(piece, 0.6, True)[:, 0] + (x0, y0)
            if len(outline) > 2:
                self.own(label, outline, patch, limits)

    def shadow(self, points: np.ndarray, strength: float, soft_px: float = 1.5) -> None:
        """Darken what lies under a polygon; nobody's label changes."""
        limits = self.bounds(np.concatenate([points - 2 * soft_px, points + 2 * soft_px]))
        if limits is None:
            return
        x0, y0, x1, y1 = limits
        mask = np.zeros((y1 - y0, x1 - x0), np.float32)
        fill(mask, points - (x0, y0), 1.0, smooth=False)
        mask = 1.0 - strength * cv2.GaussianBlur(mask, (0, 0), max(soft_px, 0.5))
        area = self.image[y0:y1, x0:x1]
        area[:] = (area * mask[..., None]).astype(np.uint8)

    def contact(self, x: float, z: float, half_width: float, half_length: float, strength: float = 0.45) -> None:
        """The shadow under something that stands at (x, z)."""
        lean = -0.5 * self.light.sun * half_width if self.light.casts_shadows else 0.0
        oval = disc(0, 0, 1.0, 24) * (half_width, half_length) + (x + lean, z)
        self.shadow(self.camera.ground(oval), strength, self.camera.pixels(0.06, z))


def quad_texture(texture: np.ndarray, corners: np.ndarray) -> Callable:
    """A painter that spreads a texture over a quadrilateral.

    Args:
        corners: (4, 2) pixels of the texture's lower left, upper left, upper right, lower right corner.
    """
    height, width = texture.shape[:2]
    source = np.float32([[0, height], [0, 0], [width, 0], [width, height]])

    def paint(patch: np.ndarray, limits: Sequence[int]) -> None:
        target = (corners - (limits[0], limits[1])).astype(np.float32)
        matrix = cv2.getPerspectiveTransform(source, target)
        patch[:] = cv2.warpPerspective(texture, matrix, (patch.shape[1], patch.shape[0]), flags=cv2.INTER_LINEAR,
                                       borderMode=cv2.BORDER_REPLICATE)

    return paint
