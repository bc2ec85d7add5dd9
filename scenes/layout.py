"""One scene: what stands where, drawn from far to near."""

from functools import partial
from typing import Callable, List, NamedTuple, Tuple

import numpy as np

from scenes import buildings, furniture, people, plants, vehicles
from scenes.camera import Camera
from scenes.canvas import Canvas, box, disc
from scenes.ground import NEAR, Ground, paint_backdrop, paint_sky
from scenes.light import Light

FAR = 120.0  # metres: where the street ends
# Metres to either side of an object's middle that it is seen; 0.7 for the others.
HALF_WIDTHS = {
    vehicles.car: 1.0, vehicles.crossing_car: 2.4, vehicles.bus: 1.3, vehicles.truck: 1.3, vehicles.tram: 1.3,
    plants.tree: 2.9, plants.bush: 1.8, furniture.street_lamp: 2.5, furniture.signal_post: 4.5,
    furniture.traffic_sign: 1.5, buildings.building: 0.1, furniture.wall: 0.1, furniture.fence: 0.1, plants.hedge: 0.1}
DEPTHS = {buildings.building: 14.0}  # metres that it goes on behind its front


class Item(NamedTuple):
    """Something that stands on the ground: its place, and the call that draws it."""

    x: float
    z0: float
    z1: float
    draw: partial

    def columns(self) -> Tuple[float, float]:
        """Return the range of x / z in which it is seen."""
        half, outwards = HALF_WIDTHS.get(self.draw.func, 0.7), DEPTHS.get(self.draw.func, 0.0)
        left, right = self.x - half - outwards * (self.x < 0), self.x + half + outwards * (self.x > 0)
        return left / (self.z0 if left < 0 else self.z1), right / (self.z0 if right > 0 else self.z1)


def must_precede(items: List[Item]) -> np.ndarray:
    """(n, n) booleans: whether item i must be drawn before item j, which then hides it where they meet."""
    x, z0, z1 = (np.array([item[field] for item in items]) for field in range(3))
    left, right = np.array([item.columns() for item in items]).T
    meet = (left[:, None] < right) & (left < right[:, None])
    farther = z0[:, None] >= z1
    abreast = ~farther & ~farther.T
    outer = (x[:, None] * x > 0) & (np.abs(x)[:, None] > np.abs(x))  # nearer to the rim of the street
    return meet & (farther | (abreast & outer))


def far_to_near(items: List[Item]) -> List[Item]:
    """The items in drawing order; where they encircle one another the farthest goes first."""
    items = sorted(items, key=lambda item: -item.z1)
    before, left, order = must_precede(items), np.arange(len(items)), []
    while len(left):
        free = np.flatnonzero(~before[np.ix_(left, left)].any(axis=0))
        first = free[0] if len(free) else 0
        order.append(items[left[first]])
        left = np.delete(left, first)
    return order


class Street:
    """Draws the plan of a scene from `rng` and its parts onto a canvas."""

    def __init__(self, canvas: Canvas, rng: np.random.Generator):
        self.canvas, self.rng = canvas, rng
        self.ground = Ground(canvas, rng)
        self.items: List[Item] = []
        chance = rng.random
        self.oncoming, self.second = chance() < 0.78, chance() < 0.3  # lanes beside the own one
        self.parking = {-1: chance() < 0.5, 1: chance() < 0.4}
        self.left = -1.75 - 3.4 * self.oncoming - 2.2 * self.parking[-1]
        self.right = 1.75 + 3.3 * self.second + 2.2 * self.parking[1]
        self.tram_side = int(rng.choice([-1, 1])) if chance() < 0.6 else 0
        self.kerb, self.walk, self.front = {}, {}, {}
        self.verge = {-1: chance() < 0.42, 1: chance() < 0.42}
        for side, edge in ((-1, self.left), (1, self.right)):
            bed = 3.6 if side == self.tram_side else 0.0
            green = 1.8 if self.verge[side] and not bed else 0.0
            self.kerb[side] = edge + side * bed
            self.walk[side] = self.kerb[side] + side * green
            self.front[side] = self.walk[side] + side * rng.uniform(3.4, 6.2)
        self.crossing = float(rng.uniform(17, 30)) if chance() < 0.55 else None

    def put(self, x: float, z0: float, z1: float, draw: Callable, *args) -> None:
        """Plan an object; it draws from a generator of its own, so that no other depends on its details."""
        rng = np.random.default_rng(self.rng.integers(1 << 62))
        self.items.append(Item(x, z0, z1, partial(draw, self.canvas, rng, *args)))

    def flat(self) -> None:
        """Road, beds, verges, pavements and road markings."""
        ground, rng = self.ground, self.rng
        for side in (-1, 1):
            behind_fronts = "terrain" if rng.random() < 0.65 else "sidewalk"
            ground.strip(behind_fronts, self.front[side], side * 90.0, NEAR, FAR, getattr(ground, behind_fronts))
            ground.strip("sidewalk", self.kerb[side], self.front[side], NEAR, FAR, ground.sidewalk)
            if self.verge[side] and side != self.tram_side:
                ground.strip("terrain", self.kerb[side], self.walk[side], NEAR, FAR, ground.terrain)
        ground.strip("road", self.left, self.right, NEAR, FAR, ground.road)
        if self.crossing:
            z = self.crossing
            ground.lay("road", [(-90, z), (-90, z + 7), (90, z + 7), (90, z)], ground.road)
        if self.tram_side:
            self._tram_bed()
        self._markings()
        self._shade()

    def _tram_bed(self) -> None:
        edge, side, ground = (self.left, self.right)[self.tram_side > 0], self.tram_side, self.ground
        label, texture = [("terrain", ground.terrain), ("road", ground.road),
                          ("rail track", ground.gravel)][self.rng.choice(3, p=[0.55, 0.28, 0.17])]
        ground.strip(label, edge, edge + side * 3.6, NEAR, FAR, texture)
        middle = edge + side * 1.8
        for offset in (-0.72, 0.72):
            ground.rect(middle + offset - 0.13, middle + offset + 0.13, NEAR, FAR, (66, 60, 58), 0.9)
            ground.rect(middle + offset - 0.05, middle + offset + 0.05, NEAR, FAR, (176, 174, 172), 0.95)

    def _markings(self) -> None:
        ground, rng, white = self.ground, self.rng, (226, 226, 222)
        for side, edge in ((-1, self.left), (1, self.right)):
            kerb = edge - side * 0.14
            ground.rect(min(edge, kerb), max(edge, kerb), NEAR, FAR, (178, 176, 170), 0.8)
            if self.parking[side]:
                inner = edge - side * 2.2
                ground.rect(inner - 0.06, inner + 0.06, NEAR, FAR, white, 0.7)
        phase = rng.uniform(0, 6)
        for x in [-1.7] * self.oncoming + [1.65] * self.second:
            for z in np.arange(2 + phase, 90, 7.0):
                if not self.crossing or not self.crossing - 6 < z < self.crossing + 8:
                    ground.rect(x - 0.09, x + 0.09, z, z + 3.2, white)
        if self.crossing:
            z = self.crossing - 4.2
            for x in np.arange(self.left + 0.5, self.right - 0.6, 1.05):
                ground.rect(x, x + 0.55, z, z + 2.8, white, 0.9)
            ground.rect(-1.6, 1.6, z - 1.4, z - 1.0, white, 0.9)
        for _ in range(int(rng.integers(2, 6))):  # mended asphalt and manholes
            x, z = rng.uniform(self.left + 1, self.right - 1), rng.uniform(4, 25)
            if rng.random() < 0.5:
                ground.line(disc(x, z, 0.36), (70, 68, 66), 0.75)
            else:
                ground.rect(x - 0.6, x + rng.uniform(0, 0.8), z, z + rng.uniform(1.5, 6), (72, 72, 74), 0.3)
        if rng.random() < 0.4:
            z = rng.uniform(6, 9)
            ground.line([(-0.09, z), (-0.09, z + 2), (-0.4, z + 2), (0, z + 3.4), (0.4, z + 2), (0.09, z + 2),
                         (0.09, z)], white)

    def _shade(self) -> None:
        """The houses on the sun's side put their side of the street into the shade."""
        light = self.canvas.light
        if not light.casts_shadows:
            return
        side, rng = light.sun, self.rng
        reach = self.front[side] * rng.uniform(-0.5, 0.75)
        z = 3.0
        while z < 70:
            long = rng.uniform(7, 16)
            edge = reach + side * rng.uniform(-1.2, 1.2)
            corners = np.array([(self.front[side] * 1.05, z), (edge, z + 1), (edge, z + long),
                                (self.front[side] * 1.05, z + long)])
            self.canvas.shadow(self.canvas.camera.ground(corners), 0.3, self.canvas.camera.pixels(0.08, z + 3))
            z += long + (rng.uniform(1, 3) if rng.random() < 0.35 else -0.5)

    def sides(self) -> None:
        """Houses, and lots with a fence or a wall before trees, along both sides."""
        rng = self.rng
        fronts = ["fence" if rng.random() < 0.65 else "", "wall" if rng.random() < 0.65 else ""]
        rng.shuffle(fronts)
        for side, special in zip((-1, 1), fronts):
            z = float(rng.uniform(2, 4))
            if special:
                end = min(rng.uniform(17, 24), (self.crossing or FAR) - 1)
                self._lot(side, 5.0, end, special)
                z = end
            while z < FAR - 6:
                end = z + rng.uniform(8, 16)
                if self.crossing and z < self.crossing + 9 and end > self.crossing - 1:
                    if self.crossing - 1 - z > 4:
                        self._house(side, z, self.crossing - 1)
                    z = self.crossing + 9
                    continue
                if rng.random() < 0.84:
                    self._house(side, z, end)
                else:
                    self._lot(side, z, end, str(rng.choice(["fence", "wall", "hedge"])))
                z = end

    def _house(self, side: int, z0: float, z1: float) -> None:
        height = self.rng.uniform(7, 16)
        self.put(self.front[side], z0, z1, buildings.building, self.front[side], z0, z1, height)

    def _lot(self, side: int, z0: float, z1: float, kind: str) -> None:
        """An open lot: trees at the back, a fence, a wall or a hedge along the pavement."""
        rng, x = self.rng, self.front[side]
        if rng.random() < 0.6:
            back = x + side * rng.uniform(8, 11)
            self.put(back, z0, z1, buildings.building, back, z0, z1, rng.uniform(6, 11))
        for z in np.arange(z0 + 1.5, z1 - 1, rng.uniform(3, 5)):
            deep = x + side * rng.uniform(2.5, 6.0)
            self.put(deep, z, z + 1, plants.tree if rng.random() < 0.6 else plants.bush, deep, z)
        if kind == "fence":
            self.put(x, z0, z1, furniture.fence, x, z0, z1, rng.uniform(1.7, 2.5))
        elif kind == "wall":
            self.put(x, z0, z1, furniture.wall, x, z0, z1, rng.uniform(2.1, 3.2))
        else:
            self.put(x, z0, z1, plants.hedge, x, z0, z1, rng.uniform(1.2, 1.8))

    def traffic(self) -> None:
        """Vehicles lane by lane; a bus, a lorry and a tram come first in theirs."""
        rng = self.rng
        lanes = [(0.0, 0.0, rng.uniform(9, 15))]
        if self.oncoming:
            lanes.append((-3.4, np.pi, rng.uniform(7, 12)))
        if self.second:
            lanes.append((3.3, 0.0, rng.uniform(5, 10)))
        # What hides a tram's side is no leader.
        free = [index for index, lane in enumerate(lanes) if lane[0] * self.tram_side <= 0]
        large = [name for name in ("bus", "truck") if rng.random() < 0.62]
        leaders = dict(zip(rng.permutation(free).tolist(), rng.permutation(large).tolist()))
        for index, (x, heading, z) in enumerate(lanes):
            self._lane(x, heading, z, leaders.get(index, "car"))
        for side, edge in ((-1, self.left), (1, self.right)):
            if self.parking[side]:
                self._parked(side, edge - side * 1.1)
        if self.tram_side:
            edge = (self.left, self.right)[self.tram_side > 0]
            if rng.random() < 0.93:
                long, near, x = rng.uniform(15, 24), rng.uniform(9, 17), edge + self.tram_side * 1.8
                heading = 0.0 if rng.random() < 0.5 else np.pi
                self.put(x, near, near + long, vehicles.tram, x, near + long / 2, heading, long)
        if self.crossing and rng.random() < 0.5:
            x, z = rng.uniform(-9, 9), self.crossing + rng.uniform(2, 5)
            self.put(x, z - 0.9, z + 0.9, vehicles.crossing_car, x, z)

    def _lane(self, x: float, heading: float, z: float, leader: str) -> None:
        rng, kind = self.rng, leader
        while z < 80:
            long = {"bus": 10.0, "truck": 7.6, "car": 4.8}[kind]
            if not self.crossing or kind != "car" or not self.crossing - 5 - long < z < self.crossing + 7.5:
                draw = {"bus": vehicles.bus, "truck": vehicles.truck, "car": vehicles.car}[kind]
                shifted = x + rng.uniform(-0.25, 0.25)
                self.put(shifted, z, z + long, draw, shifted, z + long / 2, heading + rng.uniform(-0.02, 0.02))
            z += long + rng.uniform(5, 20)
            kind = str(rng.choice(["car"] * 10 + ["truck", "bus"]))

    def _parked(self, side: int, x: float) -> None:
        rng, z = self.rng, self.rng.uniform(5, 9)
        heading = 0.0 if side > 0 or rng.random() < 0.3 else np.pi
        while z < 75:
            if rng.random() < 0.2 or (self.crossing and self.crossing - 10 < z < self.crossing + 8):
                z += 5.0
                continue
            self.put(x, z, z + 4.8, vehicles.car, x, z + 2.4, heading)
            z += 4.8 + rng.uniform(0.6, 1.5)

    def kerbside(self) -> None:
        """Lamps, traffic lights, signs, street trees and clutter on both pavements."""
        rng = self.rng
        for side in (-1, 1):
            x = self.walk[side] + side * 0.45
            z = rng.uniform(7, 18)
            while z < 90:
                self.put(x, z, z + 0.3, furniture.street_lamp, x, z)
                z += rng.uniform(15, 24)
            if self.verge[side] or rng.random() < 0.35:
                lawn = (self.kerb[side] + self.walk[side]) / 2
                at = lawn if self.verge[side] else self.walk[side] + side * 0.9
                for z in np.arange(rng.uniform(10, 17), 80, rng.uniform(8, 13)):
                    self.put(at, z, z + 1.0, plants.tree, at, z)
            for _ in range(int(rng.integers(1, 3))):
                z = rng.uniform(8, 26)
                self.put(x, z, z + 0.3, furniture.traffic_sign, x + side * rng.uniform(0, 0.5), z)
            if rng.random() < 0.5:
                at, z = x + side * rng.uniform(0.6, 1.6), rng.uniform(9, 26)
                self.put(at, z, z + 0.6, furniture.clutter, at, z)
            if self.crossing or rng.random() < 0.5:
                z = self.crossing - 4.8 if self.crossing else rng.uniform(10, 19)
                at = self.kerb[side] + side * 0.4
                self.put(at, z, z + 0.3, furniture.signal_post, at, z)

    def life(self) -> None:
        """People, riders, and what they have parked."""
        rng = self.rng
        for _ in range(int(rng.integers(5, 12))):
            side = int(rng.choice([-1, 1]))
            x = rng.uniform(*sorted((self.walk[side] + side * 0.7, self.front[side] - side * 0.5)))
            z = rng.uniform(7, 22) if rng.random() < 0.75 else rng.uniform(22, 60)
            self.put(x, z, z + 0.3, people.person, x, z, rng.uniform(1.55, 1.9))
        for _ in range(int(rng.integers(1, 4)) if self.crossing else int(rng.random() < 0.4)):
            x, z = rng.uniform(self.left, self.right), rng.uniform(11, 20)
            if self.crossing:
                z = self.crossing - 3 + rng.uniform(-1, 1)
            self.put(x, z, z + 0.3, people.person, x, z, rng.uniform(1.55, 1.9))
        for motor in (False, True):
            for _ in range(int(rng.choice([0, 1, 2], p=[0.36, 0.46, 0.18]))):
                sideways = rng.random() < 0.6
                across = rng.uniform(self.left + 0.6, self.right - 0.6)
                x = across if sideways else rng.choice([-1.7, 1.8]) + rng.uniform(-0.2, 0.2)
                z = rng.uniform(6.5, 13) if sideways else rng.uniform(6, 11)
                self.put(x, z, z + 0.5, people.rider, x, z, motor, sideways)
        for draw, chance in ((people.bicycle, 0.5), (people.motorcycle, 0.45)):
            side = int(rng.choice([-1, 1]))
            if rng.random() < chance:
                z, x = rng.uniform(8, 13), self.walk[side] + side * rng.uniform(1.0, 1.6)
                for _ in range(int(rng.integers(1, 4))):
                    self.put(x, z, z + 0.5, draw, x, z, rng.uniform(-0.6, 0.6))
                    z += 0.9

    def draw(self) -> None:
        self.flat()
        self.sides()
        self.traffic()
        self.kerbside()
        self.life()
        for item in far_to_near(self.items):
            item.draw()


def bonnet(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draw the visible part of the own car, and the borders: all of it void."""
    height, width = canvas.camera.height, canvas.camera.width
    across = np.linspace(0, 1, 33)
    rise = rng.uniform(0.03, 0.065)
    top = height * (1 - rise * (1 - 0.75 * np.abs(2 * across - 1) ** 2.2))
    paint = canvas.light.on(np.array([[52, 56, 62], [92, 96, 100], [40, 44, 54]][rng.integers(3)]), 0.6)

    def shine(patch, limits):
        rows = np.linspace(1.25, 0.6, patch.shape[0])[:, None, None]
        mirror = 1 + 0.18 * np.exp(-((np.linspace(-1, 1, patch.shape[1]) / 0.3) ** 2))[None, :, None]
        patch[:] = np.clip(paint * rows * mirror, 0, 255)

    points = np.concatenate([[(0, height)], np.stack([across * width, top], axis=1), [(width, height)]])
    canvas.add("ego vehicle", points, shine)
    rim = round(width / 410) - 1  # five pixels of 2048

    def dark(patch, limits):
        patch[:] = patch // 3

    canvas.add("rectification border", box(0, 0, width, rim // 2), dark)
    outer, inner = box(0, 0, width - 1, height - 1), box(rim, rim, width - 1 - rim, height - 1 - rim)
    for edge in range(4):
        points = [outer[edge], outer[(edge + 1) % 4], inner[(edge + 1) % 4], inner[edge]]
        canvas.add("out of roi", np.array(points), lambda patch, limits: None)


def draw_scene(seed: int, split_number: int, index: int, height: int, width: int) -> Canvas:
    """Scene `index` of a split; its plan doesn't depend on the size."""
    rng = np.random.default_rng([seed, split_number, index, 0])
    texture = np.random.default_rng([seed, split_number, index, 1])
    camera = Camera(height, width, rng.uniform(0.68, 0.86), rng.uniform(0.43, 0.57), rng.uniform(0.40, 0.48),
                    rng.uniform(1.45, 1.85))
    canvas = Canvas(camera, Light(rng, texture))
    paint_sky(canvas, rng)
    paint_backdrop(canvas, rng)
    Street(canvas, rng).draw()
    bonnet(canvas, rng)
    canvas.image = canvas.light.expose(canvas.image)
    return canvas
