"""Houses: facades drawn flat and put into perspective."""

import cv2
import numpy as np

from scenes.canvas import Canvas, quad_texture
from scenes.light import Light

PLASTER = [(214, 196, 160), (206, 176, 140), (196, 190, 180), (222, 210, 188), (178, 158, 142), (200, 160, 138),
           (182, 186, 176), (226, 202, 146), (190, 172, 168)]
BRICK = [(150, 88, 70), (132, 80, 66), (164, 108, 82), (118, 84, 74)]
CONCRETE = [(160, 160, 158), (176, 172, 164), (140, 144, 148), (186, 184, 180)]
SHOP = [(150, 40, 40), (30, 70, 120), (40, 96, 70), (60, 60, 66), (180, 140, 50), (112, 52, 92), (200, 196, 186)]
TILES = [(136, 76, 58), (118, 66, 54), (84, 82, 86), (100, 74, 62)]


class Facade:
    """A house's front as a picture, `scale` pixels per metre, row 0 at the eaves.

    Args:
        rng: draws style, colours and windows.
        length, height: metres.
        sunlit: the share of the sun on it.
        colour: of an end wall, which has few windows; None makes a front.
    """

    def __init__(self, rng: np.random.Generator, light: Light, length: float, height: float, scale: float,
                 sunlit: float, colour=None):
        self.rng, self.light, self.scale, self.sunlit = rng, light, scale, sunlit
        self.length, self.height = length, height
        self.image = np.zeros((max(4, int(height * scale)), max(4, int(length * scale)), 3), np.uint8)
        if colour is not None:
            self.colour = colour
            self._end_wall()
            return
        self.style = str(rng.choice(["plaster", "brick", "concrete"], p=[0.55, 0.2, 0.25]))
        shades = {"plaster": PLASTER, "brick": BRICK, "concrete": CONCRETE}[self.style]
        self.colour = np.clip(np.array(shades[rng.integers(len(shades))]) * rng.uniform(0.86, 1.06)
                              + rng.uniform(-8, 8, 3), 0, 255)
        self._draw()

    def rect(self, x0: float, y0: float, x1: float, y1: float, colour, sunlit=None) -> None:
        """Fill a rectangle in metres (y up from the pavement)."""
        colour = self.light.on(colour, self.sunlit if sunlit is None else sunlit)
        rows = self.image.shape[0]
        top, bottom = int(round(rows - y1 * self.scale)), int(round(rows - y0 * self.scale))
        left, right = int(round(x0 * self.scale)), int(round(x1 * self.scale))
        if right > left and bottom > top:
            self.image[max(top, 0):max(bottom, 0), max(left, 0):max(right, 0)] = colour

    def _draw(self) -> None:
        self.image[:] = self.light.on(self.colour, self.sunlit)
        if self.style == "brick" and self.scale > 7:
            for y in np.arange(0, self.height, 0.32):
                self.rect(0, y, self.length, y + 0.07, self.colour * 1.22)
        self._weather()
        ground_floor = self.rng.uniform(3.4, 4.2)
        floors = max(1, int((self.height - ground_floor - 0.4) / self.rng.uniform(2.9, 3.4)))
        storey = (self.height - ground_floor - 0.5) / floors
        self._ground_floor(ground_floor)
        if self.style == "concrete" and self.rng.random() < 0.5:
            self._bands(ground_floor, floors, storey)
        else:
            self._windows(ground_floor, floors, storey)
        trim = np.clip(self.colour * 1.15 + 12, 0, 255)
        self.rect(0, ground_floor - 0.25, self.length, ground_floor, trim)
        self.rect(0, self.height - 0.45, self.length, self.height, trim)
        self.rect(0, self.height - 0.6, self.length, self.height - 0.45, self.colour * 0.6)
        self.rect(0, 0, 0.14, self.height, self.colour * 0.72)  # the joint to the neighbour

    def _end_wall(self) -> None:
        """A wall that once touched a neighbour: plain, with a column or two of windows and a downpipe."""
        self.image[:] = self.light.on(self.colour, self.sunlit)
        self._weather()
        self.rect(0, 0, self.length, 0.6, self.colour * 0.7)
        self.rect(self.rng.uniform(0.2, 0.5), 0, 0.62, self.height, self.colour * 0.75)
        for x in self.rng.uniform(0.12, 0.8, int(self.rng.integers(0, 3))) * self.length:
            for y in np.arange(1.3, self.height - 2.6, 3.1):
                self.rect(x - 0.1, y - 0.1, x + 1.05, y + 1.5, (228, 226, 220))
                self._pane(x, y, x + 0.95, y + 1.4)
        patch = self.rng.uniform(0.2, 0.6) * self.length
        self.rect(patch, 0.6, patch + 3, 0.4 * self.height, self.colour * self.rng.uniform(0.92, 1.05))

    def _weather(self) -> None:
        height, width = self.image.shape[:2]
        stain = self.light.spread(self.light.clouds, height, width, int(self.rng.integers(512)))
        streak = cv2.resize(self.rng.normal(0, 1, (1, 40)).astype(np.float32), (width, height),
                            interpolation=cv2.INTER_LINEAR)
        drop = np.linspace(0, -8, height, dtype=np.float32)[:, None]  # dirt from the street
        self.image[:] = np.clip(self.image + (2.5 * stain + 2.5 * streak + drop)[..., None], 0, 255)

    def _pane(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """Glass, with the sky in its upper part."""
        dark = np.array([52, 62, 74]) * self.rng.uniform(0.7, 1.4)
        if self.rng.random() < 0.2:
            dark = np.array([196, 190, 178])  # a drawn curtain
        self.rect(x0, y0, x1, y1, dark, 0.3)
        self.rect(x0, y0 + 0.62 * (y1 - y0), x1, y1, 0.75 * dark + 0.25 * self.light.low, 0.3)

    def _windows(self, base: float, floors: int, storey: float) -> None:
        rng = self.rng
        count = max(1, int(self.length / rng.uniform(1.9, 2.9)))
        pitch, wide, high = self.length / count, rng.uniform(0.95, 1.35), rng.uniform(1.4, 1.9)
        wide, high = min(wide, 0.66 * pitch), min(high, 0.72 * storey)
        frame = (236, 234, 228) if rng.random() < 0.75 else (92, 70, 56)
        trim = np.clip(self.colour * rng.choice([0.75, 1.2]) + 8, 0, 255)
        shutters = rng.random() < 0.2
        balcony = int(rng.integers(count)) if rng.random() < 0.35 else -1
        for floor in range(floors):
            y = base + floor * storey + 0.28 * storey
            for column in range(count):
                x = (column + 0.5) * pitch - wide / 2
                self.rect(x - 0.16, y - 0.16, x + wide + 0.16, y + high + 0.2, trim)
                self.rect(x - 0.05, y - 0.02, x + wide + 0.05, y + high + 0.03, frame)
                middle = x + wide / 2
                self._pane(x + 0.05, y + 0.06, middle - 0.04, y + high - 0.06)
                self._pane(middle + 0.04, y + 0.06, x + wide - 0.05, y + high - 0.06)
                self.rect(x - 0.2, y - 0.2, x + wide + 0.2, y - 0.1, self.colour * 0.62)
                if shutters:
                    for left in (x - 0.48, x + wide + 0.06):
                        self.rect(left, y, left + 0.42, y + high, (70, 96, 80))
                if column == balcony:
                    self.rect(x - 0.5, y - 0.25, x + wide + 0.5, y - 0.08, self.colour * 0.7)
                    self.rect(x - 0.5, y - 0.08, x + wide + 0.5, y + 0.75, (70, 72, 76))

    def _bands(self, base: float, floors: int, storey: float) -> None:
        tint = np.array([70, 88, 104]) * self.rng.uniform(0.7, 1.2)
        step = self.rng.uniform(1.2, 2.4)
        for floor in range(floors):
            y = base + floor * storey + 0.3 * storey
            self.rect(0.2, y, self.length - 0.2, y + 0.58 * storey, tint, 0.4)
            mirror = 0.7 * tint + 0.3 * self.light.low
            self.rect(0.2, y + 0.36 * storey, self.length - 0.2, y + 0.58 * storey, mirror, 0.4)
            for x in np.arange(0.2, self.length, step):
                self.rect(x, y, x + 0.1, y + 0.58 * storey, self.colour * 1.1)

    def _ground_floor(self, high: float) -> None:
        rng, x = self.rng, 0.4
        self.rect(0, 0, self.length, 0.55, self.colour * 0.62)
        shop = rng.random() < 0.55
        sign = np.array(SHOP[rng.integers(len(SHOP))])
        while x + 1.6 < self.length:
            if rng.random() < 0.25:
                door = np.array(SHOP[rng.integers(len(SHOP))]) * 0.7
                self.rect(x, 0, x + 1.3, 2.6, self.colour * 0.55)
                self.rect(x + 0.14, 0, x + 1.16, 2.4, door)
                x += 1.9
                continue
            wide = min(rng.uniform(2.2, 3.4) if shop else 1.4, self.length - x - 0.3)
            low = 0.6 if shop else 1.1
            self.rect(x - 0.06, low - 0.08, x + wide + 0.06, 2.8, (60, 60, 62) if shop else (228, 226, 220))
            self._pane(x + 0.04, low, x + wide - 0.04, 2.7)
            if shop:  # goods behind the glass, the name above
                for spot in np.arange(x + 0.2, x + wide - 0.4, 0.55):
                    self.rect(spot, low, spot + 0.35, low + rng.uniform(0.4, 1.2), rng.uniform(60, 230, 3), 0.2)
                self.rect(x - 0.1, 2.85, x + wide + 0.1, high - 0.35, sign)
                for spot in np.arange(x + 0.3, x + wide - 0.4, 0.4):
                    self.rect(spot, 2.97, spot + 0.24, high - 0.5, sign * 0.3 + 170)
            x += wide + (0.35 if shop else 1.0)


def building(canvas: Canvas, rng: np.random.Generator, x: float, z0: float, z1: float, height: float) -> None:
    """A house with its front at `x` (its sign is the side) from z0 to z1, its end wall and its roof."""
    camera, light = canvas.camera, canvas.light
    side = 1 if x > 0 else -1
    seen = max(z0, abs(x) * camera.focal_px / (0.62 * camera.width))  # where it enters the picture
    scale = float(np.clip(camera.pixels(0.9, seen), 3.0, 42.0))
    facade = Facade(rng, light, z1 - z0, height, scale, light.side(side))
    end = facade.colour * rng.uniform(0.8, 0.95)
    depth, steep = rng.uniform(9, 14), 2.8 if rng.random() < 0.7 else 0.0  # a mansard roof or a flat one
    if z0 > 5:
        gable = [(0, 0), (0, height), (side * 1.7, height + steep), (side * (depth - 1.7), height + steep),
                 (side * depth, height), (side * depth, 0)]
        side_wall = Facade(rng, light, depth, height + steep, min(scale, 24.0), light.frontal, end).image
        plane = camera.plane(x, z0)
        corners = plane([(0, 0), (0, height + steep), (side * depth, height + steep), (side * depth, 0)])
        canvas.add("building", plane(gable), quad_texture(_veil(light, side_wall, z0, z0), corners))
    if steep:
        slope = camera.project([(x, height, z0), (x + side * 1.7, height + steep, z0),
                                (x + side * 1.7, height + steep, z1), (x, height, z1)])
        tiles = _roof(rng, light, np.array(TILES[rng.integers(len(TILES))]), z1 - z0, scale)
        canvas.add("building", slope, quad_texture(_veil(light, tiles, seen, z1), slope))
    front = camera.plane(x, z0, np.pi / 2)([(0, 0), (0, height), (z1 - z0, height), (z1 - z0, 0)])
    canvas.add("building", front, quad_texture(_veil(light, facade.image, z0, z1), front))


def _veil(light: Light, texture: np.ndarray, z0: float, z1: float) -> np.ndarray:
    """A texture along the street behind the haze of its columns."""
    z = np.linspace(z0, z1, texture.shape[1], dtype=np.float32)
    share = (1 - np.exp(-z / light.haze_m))[None, :, None]
    return (texture + (light.haze - texture) * share).astype(np.uint8)


def _roof(rng: np.random.Generator, light: Light, colour, length: float, scale: float) -> np.ndarray:
    rows, columns = max(4, int(3.2 * scale)), max(4, int(length * scale))
    image = np.empty((rows, columns, 3), np.float32)
    image[:] = light.on(colour, 0.6)
    image[::max(2, int(0.35 * scale))] *= 0.8
    image += 4 * light.spread(light.grain, rows, columns, 3)[..., None]
    for x in np.arange(2.0, length - 2.0, rng.uniform(3.5, 6.0)):
        if rng.random() < 0.6:  # a skylight
            left, right = int(x * scale), int((x + 0.9) * scale)
            image[int(0.3 * rows):int(0.65 * rows), left:right] = light.on((70, 84, 98), 0.4)
    return np.clip(image, 0, 255).astype(np.uint8)
