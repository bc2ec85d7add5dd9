"""Trees, bushes and hedges."""

import cv2
import numpy as np

from scenes.canvas import Canvas, Sprite, clip, limb

LEAVES = [(74, 104, 46), (88, 116, 50), (62, 92, 48), (104, 120, 52), (80, 100, 62), (128, 122, 50)]


def crown(rng: np.random.Generator, x: float, y: float, wide: float, high: float) -> np.ndarray:
    """An irregular outline about (x, y): boughs, and tufts of leaves at their ends."""
    count = 120
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    radius = np.ones(count)
    for wave in (3, 5, 8, 13, 21):
        radius += rng.uniform(0.02, 0.08) * np.sin(wave * angle + rng.uniform(0, 6.3))
    radius += rng.uniform(-0.045, 0.045, count)
    return np.stack([x + wide * radius * np.cos(angle), y + high * radius * np.sin(angle)], axis=1)


def foliage(canvas: Canvas, rng: np.random.Generator, z: float, colour):
    """A painter of leaves: light from the sun's side and above, dark below."""
    light, camera = canvas.light, canvas.camera
    colour, shift = np.array(colour, np.float32), int(rng.integers(512))
    leaf = max(0.02 * camera.pixels(1.0, z), 0.2)  # noise texels are leaves, clumps are 16 times as large

    def paint(patch, limits):
        x0, y0, x1, y1 = limits
        x, y = np.meshgrid(np.arange(x0, x1), np.arange(y0, y1))
        clumps = light.sample(light.clouds, x + 13 * shift, y + 7 * shift, 1.6 / leaf)
        leaves = cv2.GaussianBlur(light.spread(light.grain, y1 - y0, x1 - x0, shift), (0, 0), max(leaf, 0.3))
        leaves *= max(2.2 * leaf, 1.0)  # blurred noise is weaker
        height, width = patch.shape[:2]
        down = np.linspace(0, 1, height, dtype=np.float32)[:, None]
        across = np.linspace(-1, 1, width, dtype=np.float32)[None, :] * light.sun
        sunlit = np.clip(0.62 - 0.7 * down + 0.32 * across + 0.2 * clumps, 0, 1.1)
        shade = light.ambient * (0.72 - 0.2 * down[..., None]) + sunlit[..., None] * (light.direct + 0.2)
        image = colour * shade + (6 * clumps + 9 * leaves)[..., None] * np.float32([0.9, 1.1, 0.5])
        veil = light.veil(z)
        patch[:] = np.clip(image * (1 - veil) + light.haze * veil, 0, 255)

    return paint


def tree(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A street tree: trunk and crown, one polygon each."""
    camera = canvas.camera
    high, wide = rng.uniform(5.5, 9.5), rng.uniform(1.7, 2.9)
    low = rng.uniform(2.2, 3.2)
    canvas.contact(x, z, 1.3, 1.0, 0.35)
    plane = camera.plane(x, z)
    trunk = Sprite(canvas.light, 0.4)
    thick = camera.at_least(0.16, z, 0.004)
    trunk.add(plane(limb((0, 0), (rng.uniform(-0.3, 0.3), low + 1.5), thick, 0.7 * thick)), (84, 68, 54))
    trunk.add(plane(limb((0, low), (-0.8, low + 1.4), 0.6 * thick)), (80, 64, 52))
    trunk.add(plane(limb((0, low), (0.8, low + 1.5), 0.6 * thick)), (80, 64, 52))
    canvas.stamp("vegetation", trunk, z)
    colour = np.array(LEAVES[rng.integers(len(LEAVES))]) * rng.uniform(0.9, 1.15)
    slim = rng.random() < 0.2
    shape = crown(rng, 0, (low + high) / 2, wide * (0.55 if slim else 1.0), (high - low) / 2 * 1.05)
    canvas.add("vegetation", plane(shape), foliage(canvas, rng, z, colour))


def bush(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A bush that stands on the ground."""
    wide, high = rng.uniform(0.9, 1.8), rng.uniform(1.0, 2.2)
    shape = crown(rng, 0, 0.45 * high, wide, 0.6 * high)
    shape[:, 1] = np.maximum(shape[:, 1], 0)
    colour = np.array(LEAVES[rng.integers(len(LEAVES))]) * rng.uniform(0.85, 1.05)
    canvas.contact(x, z, wide, 0.4 * wide, 0.4)
    canvas.add("vegetation", canvas.camera.plane(x, z)(shape), foliage(canvas, rng, z, colour))


def hedge(canvas: Canvas, rng: np.random.Generator, x: float, z0: float, z1: float, high: float) -> None:
    """A clipped hedge along the street."""
    steps = np.linspace(0, z1 - z0, 40)
    tops = high + rng.uniform(-0.12, 0.12, 40)
    outline = np.concatenate([[[0, 0]], np.stack([steps, tops], 1), [[z1 - z0, 0]]])
    points = clip(canvas.camera.plane(x, z0, np.pi / 2)(outline), canvas.camera.width, canvas.camera.height)
    if len(points) > 2:
        canvas.add("vegetation", points, foliage(canvas, rng, (z0 + z1) / 2, LEAVES[rng.integers(3)]))
