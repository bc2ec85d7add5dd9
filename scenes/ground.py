"""Sky, backdrop and everything that lies flat."""

import cv2
import numpy as np

from scenes.canvas import Canvas, box, clip, fill

NEAR = 1.5  # metres: nothing nearer is in the picture


def paint_sky(canvas: Canvas, rng: np.random.Generator) -> None:
    """A gradient with clouds and a glow on the sun's side."""
    light, camera = canvas.light, canvas.camera
    cover, stretch = rng.uniform(-0.3, 1.2), rng.uniform(2.5, 5.0)
    shift = rng.integers(0, 512, 2)

    def paint(patch, limits):
        height, width = patch.shape[:2]
        rows = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
        sky = light.zenith + (light.low - light.zenith) * rows ** 0.8
        sky = np.repeat(sky, width, axis=1)
        flat = 0.25 + 0.75 * rows[..., 0]  # clouds are flatter and nearer to each other towards the horizon
        x = np.arange(width)[None, :] * (512 / camera.width) + shift[0]
        y = stretch * np.arange(height)[:, None] * (256 / camera.height) * flat + shift[1]
        cloud = light.sample(cv2.GaussianBlur(light.clouds, (0, 0), 1.5), np.broadcast_to(x, (height, width)), y, 1.0)
        opacity = np.clip((cloud - cover) * 0.8, 0, 0.85)[..., None]
        white = light.on((250, 250, 250), 0.55)
        sky += (white - 22 * np.clip(cloud - cover - 0.8, 0, 1.5)[..., None] - sky) * opacity
        side = np.linspace(-1, 1, width, dtype=np.float32) * light.sun
        glow = (np.clip(side, 0, 1) ** 2)[None, :, None] * rows * light.direct * 90
        patch[:] = np.clip(sky + glow, 0, 255)

    canvas.add("sky", box(0, 0, camera.width, camera.horizon_px + 0.03 * camera.height), paint)


def paint_backdrop(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draw the backdrop: distant houses and the tree line before them."""
    camera, light = canvas.camera, canvas.light
    z, half = 150.0, 150.0 * (0.75 * camera.width / camera.focal_px)
    x = -half
    while x < half:
        wide, high = rng.uniform(12, 28), rng.uniform(6, 17)
        if rng.random() < 0.6:
            colour = light.on(rng.uniform(110, 190) * np.array([1.0, 0.95, 0.88]), 0.5)
            colour = colour + (light.haze - colour) * light.veil(z)
            canvas.add("building", camera.plane(0, z)(box(x, 0, x + wide, high)), _flat(colour, rng))
        x += wide
    steps = np.linspace(-half, half, 80)
    tops = 4.5 + 2.5 * np.sin(steps / 19 + rng.uniform(0, 6)) + rng.uniform(-1, 1, 80)
    points = np.concatenate([[[-half, -1]], np.stack([steps, tops], 1), [[half, -1]]])
    green = light.on((74, 96, 58), 0.4)
    green = green + (light.haze - green) * light.veil(120)
    canvas.add("vegetation", camera.plane(0, z)(points), _flat(green, rng, 14))


def _flat(colour, rng: np.random.Generator, roughness: float = 5.0):
    seed = int(rng.integers(1 << 31))

    def paint(patch, limits):
        cells = np.random.default_rng(seed).normal(0, roughness, (24, 48, 1)).astype(np.float32)
        cells = cv2.resize(cells, (patch.shape[1], patch.shape[0]), interpolation=cv2.INTER_NEAREST)
        patch[:] = np.clip(colour + cells[..., None], 0, 255)

    return paint


class Ground:
    """Paints surfaces, given by world polygons of (x, z), onto a canvas.

    Args:
        rng: draws the colours of this scene's surfaces.
    """

    def __init__(self, canvas: Canvas, rng: np.random.Generator):
        self.canvas, self.light = canvas, canvas.light
        grey = rng.uniform(84, 118)
        self.asphalt = grey * np.array([1.0, 1.0, 1.02]) + rng.uniform(-2, 2, 3)
        pale = rng.uniform(142, 176)
        self.paving = pale * np.array([1.04, 0.98, 0.92]) + rng.uniform(-5, 5, 3)
        self.slab = rng.uniform(0.5, 1.0)
        self.grass = np.array([rng.uniform(108, 142), rng.uniform(140, 160), rng.uniform(62, 82)])
        self.worn = rng.uniform(0.2, 0.8)
        self.shift = rng.uniform(0, 400)

    def lay(self, label: str, points, texture) -> None:
        """Add a surface; texture(x, z) gives its colours (h, w, 3) at ground points."""
        light = self.light

        def paint(patch, limits):
            x, z = self.canvas.camera.ground_at(limits)
            colour = np.clip(texture(x, z + self.shift, z), 0, 255)
            veil = (1 - np.exp(-z / light.haze_m))[..., None]
            patch[:] = np.clip(colour + (light.haze - colour) * veil, 0, 255)

        self.canvas.add(label, self.canvas.camera.ground(points), paint)

    def _grain(self, x, z, depth, coarse: float, fine: float):
        fade = np.minimum(1.0, 12.0 / depth)
        rough = self.light.sample(self.light.clouds, x, z, 14.0)
        return (coarse * rough + fine * fade * self.light.sample(self.light.grain, x, z, 40.0))[..., None]

    def road(self, x, z, depth):
        tracks = 1.0 - 0.05 * np.exp(-((np.abs(np.abs(x) - 0.8) / 0.35) ** 2))  # wheels darken the asphalt
        base = self.light.on(self.asphalt, 0.55) * tracks[..., None]
        return base + self._grain(x, z, depth, 3.0, 5.0)

    def sidewalk(self, x, z, depth):
        base = self.light.on(self.paving, 0.55)
        cells = (np.floor(x / self.slab).astype(int) * 31 + np.floor(z / self.slab).astype(int) * 17) % 7
        joint = (np.mod(x, self.slab) < 0.05) | (np.mod(z, self.slab) < 0.06)
        fade = np.clip(1.4 - depth / 22, 0, 1)
        change = (cells - 3) * 3.0 * fade - 34 * joint * fade
        return base + change[..., None] + self._grain(x, z, depth, 4.0, 4.0)

    def terrain(self, x, z, depth):
        base = self.light.on(self.grass, 0.55)
        patches = self.light.sample(self.light.clouds, x, z, 7.0)[..., None]
        blades = self.light.sample(self.light.grain, x, z, 30.0)[..., None]
        fade = np.minimum(1.0, 14.0 / depth)[..., None]
        return base + patches * np.array([13, 9, 3]) + blades * fade * (7, 10, 5)

    def gravel(self, x, z, depth):
        return self.light.on((126, 118, 108), 0.5) + self._grain(x, z, depth, 7.0, 12.0)

    def strip(self, label: str, x0: float, x1: float, z0: float, z1: float, texture) -> None:
        """A surface between two lines along the street."""
        self.lay(label, [(x0, z0), (x0, z1), (x1, z1), (x1, z0)], texture)

    def line(self, points, colour, share: float = 0.85) -> None:
        """Paint a mark of road paint, worn in places, on whatever lies there."""
        canvas, camera = self.canvas, self.canvas.camera
        outline = clip(camera.ground(points), camera.width, camera.height)
        limits = canvas.bounds(outline) if len(outline) > 2 else None
        if limits is None:
            return
        x0, y0, x1, y1 = limits
        mask = np.zeros((y1 - y0, x1 - x0), np.float32)
        fill(mask, outline - (x0, y0), 1.0, smooth=False)
        x, z = camera.ground_at(limits)
        wear = np.clip(1.2 - self.worn * 0.4 * np.abs(self.light.sample(self.light.clouds, x, z, 25.0)), 0.3, 1)
        paint = self.light.on(colour, 0.55)
        paint = paint + (self.light.haze - paint) * (1 - np.exp(-z / self.light.haze_m))[..., None]
        share_of = (share * mask * wear)[..., None]
        area = canvas.image[y0:y1, x0:x1]
        area[:] = np.clip(area + (paint - area) * share_of, 0, 255)

    def rect(self, x0: float, x1: float, z0: float, z1: float, colour, share: float = 0.85) -> None:
        self.line([(x0, z0), (x0, z1), (x1, z1), (x1, z0)], colour, share)
