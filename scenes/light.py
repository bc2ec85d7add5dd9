"""Time of day: colours of sun, shade, sky and haze, and what the lens does at the end."""

import cv2
import numpy as np

TILE = 512  # side of the noise tiles, a power of two

# name: (zenith, sky at the horizon, haze, light in the shade, what the sun adds)
HOURS = {
    "noon": ((78, 128, 196), (190, 212, 232), (188, 203, 218), (0.66, 0.70, 0.78), (0.46, 0.42, 0.34)),
    "overcast": ((176, 184, 192), (222, 224, 224), (202, 206, 208), (0.84, 0.86, 0.88), (0.10, 0.10, 0.09)),
    "evening": ((92, 116, 170), (248, 204, 150), (224, 190, 152), (0.62, 0.60, 0.66), (0.56, 0.40, 0.20)),
    "morning": ((128, 166, 208), (240, 226, 206), (222, 214, 202), (0.68, 0.70, 0.75), (0.42, 0.36, 0.28)),
    "milky": ((160, 182, 206), (226, 230, 232), (208, 214, 218), (0.76, 0.78, 0.81), (0.26, 0.24, 0.20)),
}


def cloud_noise(rng: np.random.Generator) -> np.ndarray:
    """A seamless (TILE, TILE) float32 field of several octaves, mean 0 and deviation 1."""
    total = np.zeros((TILE, TILE), np.float32)
    for cells in (4, 8, 16, 32, 64, 128):
        grid = rng.standard_normal((cells, cells)).astype(np.float32)
        wide = cv2.resize(np.pad(grid, 2, mode="wrap"), None, fx=TILE // cells, fy=TILE // cells,
                          interpolation=cv2.INTER_CUBIC)
        edge = 2 * TILE // cells
        total += wide[edge:-edge, edge:-edge] * (4.0 / cells) ** 0.75
    return (total - total.mean()) / total.std()


class Light:
    """One scene's light and noise.

    Args:
        rng: draws hour, side of the sun, gain and cast.
        texture: draws the noise tiles.
    """

    def __init__(self, rng: np.random.Generator, texture: np.random.Generator):
        self.hour = str(rng.choice(list(HOURS), p=[0.3, 0.25, 0.15, 0.15, 0.15]))
        zenith, low, haze, ambient, direct = (np.array(row, np.float32) for row in HOURS[self.hour])
        self.zenith, self.low, self.haze = zenith, low, haze
        self.ambient, self.direct = ambient, direct * rng.uniform(0.85, 1.1)
        self.sun = int(rng.choice([-1, 1]))  # side the sun is on
        self.frontal = rng.uniform(0.25, 0.8)  # how much of it falls on what faces the camera
        self.haze_m = rng.uniform(150, 380)
        self.gain = rng.uniform(0.94, 1.2)
        self.cast = rng.uniform(0.96, 1.04, 3).astype(np.float32)
        self.gamma = rng.uniform(0.82, 1.05)
        self.noise_level = rng.uniform(1.0, 3.0)
        self.clouds = cloud_noise(texture)
        self.grain = texture.standard_normal((TILE, TILE)).astype(np.float32)

    @property
    def casts_shadows(self) -> bool:
        return float(self.direct.max()) > 0.2

    def on(self, colour, sunlit: float = 0.5) -> np.ndarray:
        """The colour of a surface that gets the share `sunlit` of the sun, float32 RGB."""
        return np.clip(np.asarray(colour, np.float32) * (self.ambient + sunlit * self.direct), 0, 255)

    def side(self, side: int) -> float:
        """Return the share of sunlight on a facade on a side (-1 left, 1 right) of the street."""
        return 0.95 if side != self.sun else 0.05

    def veil(self, z: float) -> float:
        """The share of haze in what is seen z metres away."""
        return 1.0 - float(np.exp(-z / self.haze_m))

    def sample(self, tile: np.ndarray, x: np.ndarray, y: np.ndarray, scale: float) -> np.ndarray:
        """A noise tile at world points, one texel per 1 / scale metres."""
        columns = np.floor(x * scale).astype(np.int64) & (TILE - 1)
        return tile[np.floor(y * scale).astype(np.int64) & (TILE - 1), columns]

    def spread(self, tile: np.ndarray, height: int, width: int, shift: int = 0) -> np.ndarray:
        """A noise tile repeated over (height, width) pixels."""
        rows = (np.arange(height) + shift) & (TILE - 1)
        return tile[rows[:, None], (np.arange(width) + 7 * shift) & (TILE - 1)]

    def expose(self, image: np.ndarray) -> np.ndarray:
        """The final picture: soft lens, vignette, gain, cast, gamma and sensor noise; uint8 RGB."""
        height, width = image.shape[:2]
        out = cv2.GaussianBlur(image, (0, 0), 0.45 + width / 4000).astype(np.float32)
        y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
        vignette = (1.0 - 0.06 * (x * x + y * y)).astype(np.float32)[..., None]
        out *= vignette * (self.gain * self.cast)
        curve = (255.0 * (np.arange(256) / 255.0) ** self.gamma).astype(np.float32)
        out = cv2.LUT(np.clip(out, 0, 255).astype(np.uint8), curve)  # float32, as the curve is
        grain = self.spread(self.grain, height, width, 91)
        chroma = np.stack([self.spread(self.grain, height, width, k) for k in (17, 201, 333)], axis=2)
        out += self.noise_level * (0.8 * grain[..., None] + 0.6 * chroma)
        return np.clip(out + 0.5, 0, 255).astype(np.uint8)
