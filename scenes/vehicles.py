"""Cars, trucks, buses and trams: outlines extruded across their width.

A vehicle's own metres: s along it (0 in the middle, the front positive), t to its right, y up.
"""

import numpy as np

from scenes.canvas import Canvas, Sprite, box, disc, limb

GLASS = np.array([44, 54, 64])
CAR_PAINTS = [(178, 182, 186), (40, 42, 46), (228, 228, 226), (34, 66, 126), (158, 28, 34), (92, 96, 102),
              (58, 84, 76), (120, 100, 80), (84, 120, 160), (206, 206, 200)]
BUS_PAINTS = [(226, 176, 40), (196, 40, 44), (226, 196, 60), (214, 110, 36)]
TRUCK_PAINTS = [(198, 202, 204), (52, 104, 168), (216, 212, 198), (66, 132, 104), (150, 156, 162)]
TRAM_PAINTS = [(34, 122, 108), (40, 92, 172), (26, 140, 150), (92, 60, 132)]
CARS = {  # length, roof, side outline from the rear bumper over the roof to the front, strips that are glass
    "sedan": (4.6, 1.45, [(0, .32), (0, .9), (.12, 1.0), (.8, 1.03), (1.4, 1.42), (2.5, 1.45), (3.35, .98),
                          (4.45, .8),
                          (4.6, .6), (4.6, .3)], (3, 5)),
    "hatchback": (4.1, 1.5, [(0, .32), (.03, .95), (.4, 1.46), (1.3, 1.5), (2.2, 1.47), (3.0, 1.0),
                             (3.95, .84), (4.1, .6),
                             (4.1, .3)], (1, 4)),
    "estate": (4.6, 1.5, [(0, .32), (.03, .98), (.35, 1.45), (1.6, 1.5), (2.6, 1.48), (3.4, 1.0), (4.45, .82),
                          (4.6, .6),
                          (4.6, .3)], (1, 4)),
    "suv": (4.5, 1.72, [(0, .38), (.02, 1.08), (.28, 1.66), (1.4, 1.72), (2.5, 1.7), (3.25, 1.14),
                        (4.35, 1.0),
                        (4.5, .7), (4.5, .36)], (1, 4)),
    "van": (4.8, 1.95, [(0, .34), (.02, 1.1), (.15, 1.9), (1.5, 1.95), (3.5, 1.93), (4.2, 1.15), (4.7, .95),
                        (4.8, .6),
                        (4.8, .32)], (1, 4)),
}


def rounded(outline, cut: float = 0.16) -> np.ndarray:
    """An outline with its inner corners cut; strip i becomes strip 2 i."""
    points = np.array(outline, np.float64)
    out = [points[0]]
    for before, corner, after in zip(points[:-2], points[1:-1], points[2:]):
        for other in (before, after):
            out.append(corner + (other - corner) * min(0.3, cut / max(float(np.hypot(*(other - corner))), 1e-6)))
    return np.array([*out, points[-1]])


class Vehicle:
    """An extruded outline at (x, z) on the street, ready for its details.

    Args:
        heading: 0 drives away from the camera, pi towards it, +-pi / 2 to the right or the left.
        outline: (n, 2) of (s, y) from the lower rear over the roof to the lower front.
        narrows: metres that each side of the roof lies further in than the waist.
        waist: height from which the sides lean in.
    """

    def __init__(self, canvas: Canvas, x: float, z: float, heading: float, width: float, outline, paint,
                 narrows: float = 0.0, waist: float = 1.0):
        self.canvas, self.light = canvas, canvas.light
        self.x, self.z, self.heading = x, z, heading
        self.outline, self.half, self.paint = np.array(outline, np.float64), width / 2, np.array(paint, np.float64)
        self.narrows, self.waist, self.roof = narrows, waist, self.outline[:, 1].max()
        self.rear, self.front = self.outline[:, 0].min(), self.outline[:, 0].max()
        self.sprite = Sprite(canvas.light)

    def pixels(self, s, t, y) -> np.ndarray:
        s, t, y = np.broadcast_arrays(*(np.asarray(value, np.float64) for value in (s, t, y)))
        sin, cos = np.sin(self.heading), np.cos(self.heading)
        return self.canvas.camera.project(np.stack([self.x + s * sin + t * cos, y, self.z + s * cos - t * sin], axis=1))

    def seen(self, point, normal) -> bool:
        """Return True if a face through (s, t, y) with an outward normal looks at the camera."""
        sin, cos = np.sin(self.heading), np.cos(self.heading)
        away = np.array([-self.x * sin - self.z * cos, -self.x * cos + self.z * sin, self.canvas.camera.above])
        return float(np.dot(away - np.asarray(point), normal)) > 0.02

    def sunlit(self, normal) -> float:
        """The share of the sun on a face with this normal (s, t, y)."""
        sin, cos = np.sin(self.heading), np.cos(self.heading)
        across, along = normal[0] * sin + normal[1] * cos, normal[0] * cos - normal[1] * sin
        facing = 0.62 * self.light.sun * across + 0.6 * normal[2] - (self.light.frontal - 0.2) * along
        return float(np.clip(0.15 + 0.85 * facing, 0.05, 1.0))

    def inset(self, y) -> np.ndarray:
        return self.half - self.narrows * np.clip((np.asarray(y) - self.waist) / max(self.roof - self.waist, 0.1), 0, 1)

    def shadow(self, strength: float = 0.62) -> None:
        grow = 0.12
        lean = -0.55 * self.light.sun * np.cos(self.heading) if self.light.casts_shadows else 0.0
        t = np.array([-1, -1, 1, 1]) * (self.half + grow) + np.array([min(lean, 0)] * 2 + [max(lean, 0)] * 2)
        ends = (self.rear - grow, self.front + grow, self.front + grow, self.rear - grow)
        self.canvas.shadow(self.pixels(ends, t, 0.0), strength, self.canvas.camera.pixels(0.1, self.z))

    def shell(self, glass=()) -> None:
        """Draw the body: first the strips across it, far to near, then the side that is seen."""
        strips = []
        for index, (start, end) in enumerate(zip(self.outline[:-1], self.outline[1:])):
            run = end - start
            normal = np.array([-run[1], 0.0, run[0]]) / max(float(np.hypot(*run)), 1e-6)
            middle = (start + end) / 2
            if self.seen((middle[0], 0.0, middle[1]), normal):
                strips.append((middle[0] * np.cos(self.heading), index, normal))
        for _, index, normal in sorted(strips, reverse=True):
            self.strip(index, self.paint, normal)
            if index in glass:
                self.strip(index, GLASS, normal, 0.10)
                rising = self.outline[index + 1, 1] > self.outline[index, 1]
                half = (0.5, 0.9) if rising else (0.1, 0.5)  # the upper half mirrors the sky
                self.strip(index, 0.6 * GLASS + 0.4 * self.light.low, normal, 0.10, half)
        self.side(self.outline, self.paint)

    def strip(self, index: int, colour, normal, margin: float = 0.0, part=None) -> None:
        """The strip between two points of the outline without `margin` at its rim, or a part of it."""
        first, last = self.outline[index], self.outline[index + 1]
        low, high = part or (margin, 1 - margin)
        ends = np.array([first + low * (last - first), first + high * (last - first)])
        t = self.inset(ends[:, 1]) * (1 - 1.6 * margin)
        self.sprite.add(self.pixels([ends[0, 0], ends[1, 0], ends[1, 0], ends[0, 0]], [-t[0], -t[1], t[1], t[0]],
                                    [ends[0, 1], ends[1, 1], ends[1, 1], ends[0, 1]]), colour, self.sunlit(normal))

    def side(self, points, colour, shade: float = 1.0, glows: bool = False, body: bool = True) -> None:
        """A polygon of (s, y) on whichever side is seen."""
        points = np.asarray(points, np.float64)
        for sign in (-1, 1):
            if self.seen((0.0, sign * self.half, 1.0), (0.0, sign, 0.0)):
                self.sprite.add(self.pixels(points[:, 0], sign * self.inset(points[:, 1]), points[:, 1]),
                                np.asarray(colour) * shade, self.sunlit((0.0, sign, 0.0)), glows, body)

    def end(self, points, colour, front: bool, glows: bool = False, s: float = 0.0) -> None:
        """A polygon of (t, y) on the front or the rear, moved in by s metres, if that end is seen."""
        sign = 1.0 if front else -1.0
        at = (self.front - s) if front else (self.rear + s)
        if self.seen((at, 0.0, 1.0), (sign, 0.0, 0.0)):
            points = np.asarray(points, np.float64)
            self.sprite.add(self.pixels(at, points[:, 0], points[:, 1]), colour, self.sunlit((sign, 0.0, 0.0)), glows,
                            body=False)

    def wheels(self, places, radius: float, rim=(150, 152, 156)) -> None:
        """Wheels at the given s on the side that is seen; tyres and darkness under the end that is seen."""
        tyre, dark = np.array([22.0, 22, 24]), np.array([14.0, 14, 16])
        for front, at in ((False, min(places) - 0.8 * radius), (True, max(places) + 0.8 * radius)):
            if self.seen((at, 0.0, 0.3), (1.0 if front else -1.0, 0.0, 0.0)):
                wide = 0.92 * self.half
                below = [(box(-wide, 0.16, wide, 1.2 * radius), dark)]
                for t in (0.11 - wide, wide - 0.11):
                    below.append((limb((t, 0.1), (t, radius), 0.11), tyre))
                for index, (points, colour) in enumerate(below):
                    self.sprite.strokes.insert(index, (self.pixels(at, points[:, 0], points[:, 1]), colour, True))
        for s in places:
            self.side(disc(s, radius + 0.05, radius * 1.2), (16, 16, 18), body=False)
            self.side(disc(s, radius, radius), (30, 30, 32))
            self.side(disc(s, radius, 0.64 * radius), rim, body=False)
            self.side(disc(s, radius, 0.5 * radius), np.asarray(rim) * 0.7, body=False)
            self.side(disc(s, radius, 0.2 * radius), rim, body=False)

    def finish(self, label: str) -> None:
        length = (self.front - self.rear) / 2 * abs(np.cos(self.heading))
        self.canvas.stamp(label, self.sprite, max(self.z - length, 3.0))


def car(canvas: Canvas, rng: np.random.Generator, x: float, z: float, heading: float) -> None:
    """A car whose middle is at (x, z)."""
    kind = str(rng.choice(list(CARS), p=[0.28, 0.3, 0.2, 0.14, 0.08]))
    length, roof, outline, glass = CARS[kind]
    outline = np.array(outline) - (length / 2, 0)
    paint = np.array(CAR_PAINTS[rng.integers(len(CAR_PAINTS))]) * rng.uniform(0.9, 1.08)
    body = Vehicle(canvas, x, z, heading, rng.uniform(1.75, 1.88), rounded(outline), paint, 0.2, 0.68 * roof)
    body.shadow()
    body.shell([2 * index for index in glass])
    body.side(box(body.rear + 0.1, 0.3, body.front - 0.1, 0.42), (52, 52, 54), body=False)
    _car_windows(body, outline, glass, roof)
    body.wheels((body.rear + 0.82, body.front - 0.86), 0.33)
    _car_ends(body, roof, bool(rng.random() < 0.3))
    body.finish("car")


def crossing_car(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A car that crosses the street."""
    car(canvas, rng, x, z, float(rng.choice([-1, 1])) * np.pi / 2)


def _car_windows(body: Vehicle, outline, glass, roof: float) -> None:
    rear, screen = outline[glass[0]:glass[0] + 2], outline[glass[1]:glass[1] + 2]
    low, high = max(rear[0][1], screen[1][1]) + 0.04, roof - 0.1
    start, end = rear[0][0] + 0.16, screen[1][0] - 0.18
    top_start, top_end = rear[1][0] + 0.12, screen[0][0] + 0.02
    body.side([(start, low), (top_start, high), (top_end, high), (end, low)], GLASS, body=False)
    body.side([(start + 0.1, low + 0.2), (top_start, high), (top_end, high), (end - 0.2, low + 0.2)],
              0.7 * GLASS + 0.3 * body.light.low, body=False)
    for at in (0.36, 0.68):
        s = start + at * (end - start)
        body.side(box(s - 0.04, low, s + 0.04, high), body.paint * 0.8, body=False)
        body.side(box(s - 0.015, 0.42, s + 0.015, low), body.paint * 0.62, body=False)
    body.side(box(body.rear + 0.2, low - 0.07, body.front - 0.5, low - 0.03), body.paint * 1.2, body=False)


def _car_ends(body: Vehicle, roof: float, braking: bool) -> None:
    half, belt = body.half, 0.6 * roof
    body.end(box(-half, 0.3, half, 0.52), (46, 46, 48), False)
    body.end(box(-0.27, 0.58, 0.27, 0.7), (236, 236, 230), False)
    for side in (-1, 1):
        lamp = box(side * half * 0.98, belt - 0.2, side * half * 0.64, belt)
        body.end(lamp, (255, 46, 36) if braking else (168, 22, 26), False, glows=braking)
    body.end(box(-half, 0.3, half, 0.46), (46, 46, 48), True)
    body.end(box(-0.5 * half, 0.5, 0.5 * half, 0.66), (28, 28, 30), True)
    body.end(box(-0.27, 0.36, 0.27, 0.47), (236, 236, 230), True)
    for side in (-1, 1):
        body.end(box(side * half * 0.95, 0.54, side * half * 0.58, 0.72), (250, 250, 238), True, glows=True)


def bus(canvas: Canvas, rng: np.random.Generator, x: float, z: float, heading: float, length: float = 10.0) -> None:
    """A city bus in one warm colour, with wheels and a display."""
    h = length / 2
    outline = [(-h, 0.35), (-h, 2.85), (-h + 0.15, 3.0), (h - 0.25, 3.0), (h - 0.05, 2.8), (h, 1.2), (h, 0.35)]
    paint = np.array(BUS_PAINTS[rng.integers(len(BUS_PAINTS))]) * rng.uniform(0.92, 1.05)
    body = Vehicle(canvas, x, z, heading, 2.5, outline, paint)
    body.shadow()
    body.shell()
    body.side(box(-h + 0.2, 1.3, h - 0.1, 2.5), GLASS, body=False)
    body.side(box(-h + 0.2, 2.0, h - 0.1, 2.5), 0.7 * GLASS + 0.3 * body.light.low, body=False)
    for s in np.arange(-h + 1.6, h - 0.3, 1.45):
        body.side(box(s, 1.3, s + 0.12, 2.5), paint * 0.75, body=False)
    for s in (-0.2 * length, h - 1.6):
        body.side(box(s, 0.45, s + 1.15, 2.5), (60, 72, 82), body=False)
        body.side(box(s + 0.54, 0.45, s + 0.6, 2.5), (20, 20, 22), body=False)
    body.side(box(-h, 0.72, h, 0.9), (236, 234, 226), body=False)
    body.wheels((-h + 2.2, h - 2.4), 0.48)
    for front in (False, True):
        body.end(box(-1.25, 0.35, 1.25, 0.6), (44, 44, 46), front)
        body.end(box(-1.1, 1.15 if front else 1.45, 1.1, 2.45), GLASS, front)
        body.end(box(-1.1, 1.9, 1.1, 2.45), 0.65 * GLASS + 0.35 * body.light.low, front)
        body.end(box(-0.9, 2.55, 0.9, 2.85), (24, 24, 22), front)
        for spot in np.arange(-0.75, 0.6, 0.25):
            body.end(box(spot, 2.62, spot + 0.16, 2.78), (255, 176, 40), front, glows=True)
        for side in (-1, 1):
            lamp = box(side * 1.18, 0.68, side * 0.85, 0.92)
            body.end(lamp, (250, 248, 232) if front else (210, 30, 30), front, glows=True)
    body.end(box(-0.7, 0.75, 0.7, 1.3), paint * 0.7, False)
    body.finish("bus")


def truck(canvas: Canvas, rng: np.random.Generator, x: float, z: float, heading: float) -> None:
    """A lorry: chassis, box with ribs and doors, and a cab."""
    long = rng.uniform(6.2, 7.6)
    h, cab = long / 2, 1.9
    paint = np.array(TRUCK_PAINTS[rng.integers(len(TRUCK_PAINTS))]) * rng.uniform(0.92, 1.04)
    cab_paint = np.array(CAR_PAINTS[rng.integers(len(CAR_PAINTS))])
    cargo = Vehicle(canvas, x, z, heading, 2.45, [(-h, 0.95), (-h, 3.3), (h - cab - 0.1, 3.3),
                                                  (h - cab - 0.1, 0.95)], paint)
    cabin = Vehicle(canvas, x, z, heading, 2.3, [(h - cab, 0.45), (h - cab, 2.55), (h - 0.5, 2.6), (h - 0.08, 1.5),
                                                 (h, 1.3), (h, 0.45)], cab_paint)
    beams = [(-h + 0.1, 0.5), (-h + 0.1, 0.97), (h - cab, 0.97), (h - cab, 0.5)]
    frame = Vehicle(canvas, x, z, heading, 2.2, beams, (42, 42, 44))
    frame.shell()
    frame.wheels((-h + 1.4, -h + 2.5, h - 1.0), 0.5)
    cargo.shell()
    for s in np.arange(-h + 0.5, h - cab - 0.3, 0.62):
        cargo.side(box(s, 0.98, s + 0.06, 3.26), paint * 0.8, body=False)
    cargo.side(box(-h + 0.6, 1.7, h - cab - 0.9, 2.5), SIGNS[rng.integers(len(SIGNS))], body=False)
    cargo.end(box(-1.16, 1.04, 1.16, 3.22), paint * 0.94, False)
    for t in (-1.2, -0.03, 1.12):
        cargo.end(box(t, 1.0, t + 0.07, 3.25), paint * 0.6, False)
    for t in (-0.32, 0.22):
        cargo.end(box(t, 1.0, t + 0.06, 3.25), (110, 112, 114), False)
    for side in (-1, 1):
        frame.end(box(side * 1.08, 0.66, side * 0.72, 0.86), (214, 32, 30), False, glows=True)
    frame.end(box(-0.27, 0.62, 0.27, 0.76), (236, 220, 90), False)
    cabin.shell((2,))
    cabin.side([(h - cab + 0.45, 1.5), (h - cab + 0.45, 2.35), (h - 0.6, 2.35), (h - 0.3, 1.5)], GLASS, body=False)
    cabin.end(box(-1.0, 0.62, 1.0, 1.2), cab_paint * 0.55, True)
    for side in (-1, 1):
        cabin.end(box(side * 1.1, 0.55, side * 0.75, 0.78), (250, 248, 232), True, glows=True)
    cargo.shadow()
    away = np.cos(heading) > 0  # the farther part is drawn first
    parts = [cabin, frame, cargo] if away or abs(np.cos(heading)) < 0.3 else [frame, cargo, cabin]
    for part in parts[1:]:
        parts[0].sprite.strokes += part.sprite.strokes
    whole = parts[0]
    whole.canvas.stamp("truck", whole.sprite, max(z - h * abs(np.cos(heading)), 3.0))


SIGNS = [(196, 40, 40), (36, 84, 160), (240, 240, 236), (230, 160, 40), (48, 120, 72)]


def tram(canvas: Canvas, rng: np.random.Generator, x: float, z: float, heading: float, length: float) -> None:
    """A tram ('train'): white above, a cool colour below, skirts down to the rails, a slanted nose."""
    h = length / 2
    outline = [(-h + 0.35, 0.18), (-h, 1.1), (-h + 0.3, 2.7), (-h + 0.8, 3.25), (h - 0.8, 3.25),
               (h - 0.3, 2.7), (h, 1.1), (h - 0.35, 0.18)]
    paint = np.array(TRAM_PAINTS[rng.integers(len(TRAM_PAINTS))]) * rng.uniform(0.9, 1.1)
    body = Vehicle(canvas, x, z, heading, 2.5, outline, (232, 232, 228))
    body.shadow()
    body.shell()
    body.side([(-h + 0.35, 0.18), (-h + 0.05, 1.1), (h - 0.05, 1.1), (h - 0.35, 0.18)], paint, body=False)
    body.side(box(-h + 0.5, 1.35, h - 0.5, 2.55), GLASS * 0.8, body=False)
    body.side(box(-h + 0.5, 2.05, h - 0.5, 2.55), 0.75 * GLASS + 0.25 * body.light.low, body=False)
    body.side(box(-h + 0.5, 2.8, h - 0.5, 3.0), paint, body=False)
    for s in np.arange(-h + 2.2, h - 2.0, 4.2):
        body.side(box(s, 0.5, s + 1.3, 2.6), paint * 0.8, body=False)
        body.side(box(s + 0.12, 1.1, s + 0.6, 2.5), GLASS, body=False)
        body.side(box(s + 0.7, 1.1, s + 1.18, 2.5), GLASS, body=False)
    for s in np.arange(-h + 8.0, h - 4.0, 8.0):
        body.side(box(s, 0.3, s + 0.5, 3.2), (48, 48, 52), body=False)
    for front in (False, True):
        body.end([(-1.22, 0.2), (1.22, 0.2), (1.24, 1.15), (-1.24, 1.15)], paint, front, s=0.02)
        body.end([(-1.12, 1.3), (1.12, 1.3), (1.02, 2.6), (-1.02, 2.6)], GLASS * 0.8, front, s=0.12)
        mirror = 0.7 * GLASS + 0.3 * body.light.low
        body.end([(-1.08, 2.0), (1.08, 2.0), (1.02, 2.6), (-1.02, 2.6)], mirror, front, s=0.12)
        body.end(box(-0.7, 2.68, 0.7, 2.98), (24, 24, 22), front, s=0.4)
        for spot in np.arange(-0.55, 0.4, 0.22):
            body.end(box(spot, 2.75, spot + 0.14, 2.9), (255, 190, 60), front, glows=True, s=0.4)
        for side in (-1, 1):
            body.end(disc(side * 0.85, 0.8, 0.16), (255, 250, 230) if front else (230, 40, 36), front, glows=True)
    body.finish("train")
