"""People on foot and on two wheels, parked bicycles and motorcycles."""

import numpy as np

from scenes.canvas import Canvas, Sprite, box, disc, limb

SKIN = [(226, 182, 152), (206, 158, 124), (164, 112, 80), (112, 76, 56)]
CLOTHES = [(176, 44, 48), (44, 72, 134), (36, 38, 44), (206, 200, 188), (66, 108, 76), (214, 164, 56), (120, 64, 116),
           (96, 116, 134), (188, 96, 52), (60, 46, 42)]
TROUSERS = [(38, 44, 62), (48, 48, 50), (92, 82, 68), (30, 30, 34), (70, 84, 108), (128, 118, 100)]
HAIR = [(34, 26, 22), (70, 48, 32), (132, 98, 58), (150, 148, 144), (24, 22, 24)]
PAINTS = [(186, 36, 42), (30, 66, 140), (32, 34, 38), (40, 112, 92), (220, 212, 196), (222, 150, 40)]


def _pick(rng: np.random.Generator, colours) -> np.ndarray:
    return np.clip(np.array(colours[rng.integers(len(colours))]) * rng.uniform(0.85, 1.15), 0, 255)


def _head(sprite: Sprite, plane, rng, x: float, y: float, unit: float, turned: int, helmet: bool) -> None:
    """A head about (x, y); `turned` -1 or 1 looks to a side, 0 at us, 2 away."""
    hair = _pick(rng, HAIR)
    sprite.add(plane(limb((x, y - 0.2 * unit), (x, y), 0.05 * unit)), (188, 142, 116))
    sprite.add(plane(disc(x, y, 0.115 * unit, squash=1.25)), _pick(rng, SKIN))
    if turned == 2:
        sprite.add(plane(disc(x, y + 0.015, 0.12 * unit, squash=1.15)), hair)
    else:
        back = -0.04 * turned * unit
        sprite.add(plane(disc(x + back, y + 0.06 * unit, 0.12 * unit, squash=0.85)), hair)
    if helmet:
        sprite.add(plane(disc(x, y + 0.06 * unit, 0.15 * unit, squash=0.95)), _pick(rng, PAINTS))


def person(canvas: Canvas, rng: np.random.Generator, x: float, z: float, tall: float = 1.75) -> None:
    """Somebody who walks or stands."""
    plane, unit = canvas.camera.plane(x, z), tall / 1.75
    top, legs, shoes = _pick(rng, CLOTHES), _pick(rng, TROUSERS), (34, 30, 30)
    turned = int(rng.choice([-1, 0, 1, 2]))
    stride = rng.uniform(0.12, 0.3) if abs(turned) == 1 else rng.uniform(0.05, 0.12)
    canvas.contact(x, z, 0.42 * unit, 0.3 * unit, 0.45)
    sprite = Sprite(canvas.light, 0.5)
    hip, shoulder = 0.92 * unit, 1.42 * unit
    swing = stride * (0.8 if abs(turned) == 1 else 0.2)
    wide = (0.15 if abs(turned) == 1 else 0.2) * unit
    sprite.add(plane(limb((-swing * 0.2, shoulder - 0.06), (-wide - swing, hip - 0.02), 0.06 * unit)), top * 0.75)
    skirt = rng.random() < 0.25
    for sign, shade in ((-1, 0.82), (1, 1.0)):
        foot = (sign * stride + (0.05 * sign), 0.06 * unit)
        colour = np.array([206, 164, 136]) if skirt else legs
        sprite.add(plane(limb((0.07 * sign, hip), foot, 0.105 * unit, 0.07 * unit)), colour * shade)
        toes = foot[0] + (0.1 * turned if abs(turned) == 1 else 0.0)
        sprite.add(plane(limb(foot, (toes, 0.05), 0.06 * unit)), shoes)
    if skirt:
        hem = 0.5 * unit
        sprite.add(plane([(-wide, hip + 0.1), (wide, hip + 0.1), (wide + 0.13, hem), (-wide - 0.13, hem)]), legs)
    sprite.add(plane([(-wide - 0.02, shoulder), (wide + 0.02, shoulder), (wide, hip - 0.06), (-wide, hip - 0.06)]), top)
    sprite.add(plane(limb((-wide + 0.04, shoulder), (wide - 0.04, shoulder), 0.085 * unit)), top)
    lit = canvas.light.sun
    sprite.add(plane([(0.2 * lit * wide, shoulder), (lit * wide, shoulder), (lit * wide * 0.95, hip),
                      (0.3 * lit * wide, hip)]), np.clip(top * 1.15 + 6, 0, 255), 0.7, body=False)
    if rng.random() < 0.3:  # a rucksack or a bag
        sprite.add(plane(box(-0.16, 1.02 * unit, 0.16, 1.4 * unit) if turned == 2 else
                         box(wide, 0.75 * unit, wide + 0.2, 1.02 * unit)), _pick(rng, CLOTHES))
    sprite.add(plane(limb((swing * 0.2 + 0.02, shoulder - 0.06), (wide + swing, hip - 0.02), 0.06 * unit)), top * 0.9)
    sprite.add(plane(disc(wide + swing, hip - 0.06, 0.055 * unit, 10)), (206, 164, 136))
    _head(sprite, plane, rng, 0, 1.62 * unit, unit, turned, False)
    canvas.stamp("person", sprite, z)


def _wheel(sprite: Sprite, plane, x: float, radius: float, tyre: float, rim, solid: bool = False) -> None:
    """A wheel seen from its side; the background shows between the spokes unless solid."""
    outer, inner = disc(x, radius, radius, 28), disc(x, radius, radius - tyre, 28)
    sprite.add(plane(outer), (28, 28, 30) if solid else None)
    if solid:
        sprite.add(plane(disc(x, radius, radius - tyre)), rim)
        sprite.add(plane(disc(x, radius, 0.4 * (radius - tyre))), (60, 60, 62))
        return
    for index in range(28):
        after = (index + 1) % 28
        sprite.add(plane(np.array([outer[index], outer[after], inner[after], inner[index]])), (26, 26, 28), body=False)
    for turn in np.arange(0, np.pi, np.pi / 4):
        reach = (radius - tyre) * np.array([np.cos(turn), np.sin(turn)])
        sprite.add(plane(limb((x, radius) - reach, (x, radius) + reach, 0.012)), rim, body=False)


def bicycle(canvas: Canvas, rng: np.random.Generator, x: float, z: float, yaw: float) -> None:
    """A bicycle, its wheels 1.05 m apart; yaw 0 is seen from the side."""
    plane, paint = canvas.camera.plane(x, z, yaw), _pick(rng, PAINTS)
    canvas.contact(x, z, 0.9 * abs(np.cos(yaw)) + 0.15, 0.25, 0.4)
    sprite = Sprite(canvas.light, 0.5)
    tube = canvas.camera.at_least(0.035, z, 0.0022)
    for at in (-0.52, 0.52):
        _wheel(sprite, plane, at, 0.36, max(0.06, 1.6 * tube), (150, 152, 154))
    frame = [((-0.52, 0.36), (-0.12, 0.34)), ((-0.12, 0.34), (0.32, 0.78)), ((-0.2, 0.8), (0.34, 0.82)),
             ((-0.12, 0.34), (-0.24, 0.92)), ((-0.52, 0.36), (-0.2, 0.8)), ((0.52, 0.36), (0.32, 0.98))]
    sprite.add(plane(np.array([(-0.52, 0.36), (-0.12, 0.3), (0.34, 0.8), (-0.2, 0.84)])), None)
    for start, end in frame:
        sprite.add(plane(limb(start, end, tube)), paint)
    sprite.add(plane(limb((-0.34, 0.96), (-0.12, 0.96), 0.05)), (30, 28, 28))
    sprite.add(plane(limb((0.3, 1.02), (0.46, 1.06), 0.035)), (40, 40, 42))
    sprite.add(plane(limb((-0.62, 0.74), (-0.3, 0.74), 0.03)), (60, 60, 62))
    if rng.random() < 0.3:
        sprite.add(plane(box(0.42, 0.72, 0.78, 1.0)), (150, 112, 66))
    canvas.stamp("bicycle", sprite, z)


def bicycle_behind(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A bicycle seen along its length."""
    plane, paint = canvas.camera.plane(x, z), _pick(rng, PAINTS)
    canvas.contact(x, z, 0.25, 0.6, 0.45)
    sprite = Sprite(canvas.light, 0.5)
    tube = canvas.camera.at_least(0.06, z, 0.006)
    sprite.add(plane(limb((0, tube), (0, 0.68), tube)), (26, 26, 28))
    sprite.add(plane(limb((0, 0.45), (0, 0.95), 0.8 * tube)), paint)
    sprite.add(plane(box(-0.14, 0.62, 0.14, 0.78)), (52, 52, 54))
    sprite.add(plane(limb((-0.3, 1.04), (0.3, 1.04), 0.04)), (40, 40, 42))
    sprite.add(plane(limb((-0.2, 0.3), (0.2, 0.24), 0.04)), (50, 50, 50))
    bags = _pick(rng, PAINTS)
    for side in (-1, 1):
        sprite.add(plane(box(side * 0.1, 0.36, side * 0.27, 0.72)), bags * (1.0 if side > 0 else 0.8))
    sprite.add(plane(disc(0, 0.82, 0.06)), (230, 40, 40), glows=True)
    canvas.stamp("bicycle", sprite, z)


def motorcycle(canvas: Canvas, rng: np.random.Generator, x: float, z: float, yaw: float) -> None:
    """A motorcycle or a scooter; yaw 0 is seen from the side."""
    plane, paint = canvas.camera.plane(x, z, yaw), _pick(rng, PAINTS)
    canvas.contact(x, z, 1.0 * abs(np.cos(yaw)) + 0.2, 0.35, 0.55)
    sprite = Sprite(canvas.light, 0.5)
    for at in (-0.72, 0.72):
        _wheel(sprite, plane, at, 0.33, 0.13, (148, 150, 152), solid=True)
    sprite.add(plane([(-0.5, 0.3), (0.45, 0.26), (0.5, 0.62), (-0.42, 0.66)]), (44, 44, 46))
    sprite.add(plane(disc(-0.02, 0.44, 0.2)), (120, 120, 122))
    sprite.add(plane([(-0.15, 0.6), (0.52, 0.62), (0.46, 0.92), (0.1, 1.0), (-0.2, 0.82)]), paint)
    gloss = np.clip(paint * 1.3 + 16, 0, 255)
    sprite.add(plane([(0.0, 0.78), (0.4, 0.76), (0.36, 0.9), (0.08, 0.94)]), gloss, body=False)
    sprite.add(plane([(-0.95, 0.78), (-0.5, 0.62), (-0.12, 0.7), (-0.1, 0.84), (-0.8, 0.92)]), (30, 28, 28))
    sprite.add(plane([(-1.0, 0.62), (-0.55, 0.58), (-0.5, 0.72), (-0.98, 0.8)]), paint * 0.85)
    sprite.add(plane(limb((0.72, 0.33), (0.48, 1.0), 0.06)), (150, 152, 154))
    sprite.add(plane(limb((0.42, 1.06), (0.3, 1.1), 0.045)), (30, 30, 32))
    sprite.add(plane(disc(0.62, 0.86, 0.12)), (232, 230, 214))
    sprite.add(plane(limb((-0.9, 0.36), (-0.2, 0.3), 0.065)), (170, 172, 174))
    canvas.stamp("motorcycle", sprite, z)


def motorcycle_behind(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A motorcycle seen along its length."""
    plane, paint = canvas.camera.plane(x, z), _pick(rng, PAINTS)
    canvas.contact(x, z, 0.35, 0.7, 0.5)
    sprite = Sprite(canvas.light, 0.5)
    sprite.add(plane(limb((0, 0.13), (0, 0.58), 0.13)), (28, 28, 30))
    sprite.add(plane(limb((-0.38, 1.02), (0.38, 1.02), 0.05)), (34, 34, 36))
    sprite.add(plane([(-0.3, 0.5), (0.3, 0.5), (0.22, 0.98), (-0.22, 0.98)]), paint)
    sprite.add(plane([(-0.34, 0.42), (-0.16, 0.4), (-0.18, 0.78), (-0.34, 0.8)]), (52, 52, 54))
    sprite.add(plane([(0.34, 0.42), (0.16, 0.4), (0.18, 0.78), (0.34, 0.8)]), (52, 52, 54))
    sprite.add(plane(box(-0.14, 0.72, 0.14, 0.84)), (240, 60, 46), glows=True, body=False)
    sprite.add(plane(box(-0.12, 0.5, 0.12, 0.64)), (232, 232, 226), body=False)
    for side in (-1, 1):
        sprite.add(plane(limb((side * 0.36, 1.04), (side * 0.44, 1.26), 0.055)), (36, 36, 38))
    canvas.stamp("motorcycle", sprite, z)


def rider(canvas: Canvas, rng: np.random.Generator, x: float, z: float, motor: bool, sideways: bool) -> None:
    """A rider with the vehicle, seen from the side or from behind."""
    yaw = float(rng.choice([0.0, np.pi]) + rng.uniform(-0.5, 0.5)) if sideways else 0.0
    if sideways:
        (motorcycle if motor else bicycle)(canvas, rng, x, z, yaw)
    else:
        (motorcycle_behind if motor else bicycle_behind)(canvas, rng, x, z)
    plane = canvas.camera.plane(x, z - 0.02, yaw)
    top = np.array([36, 38, 42]) if motor and rng.random() < 0.5 else _pick(rng, CLOTHES)
    legs = _pick(rng, TROUSERS)
    sprite = Sprite(canvas.light, 0.5)
    seat = 0.88 if motor else 0.98
    if sideways:
        neck = (0.12, seat + 0.56)
        hand = (0.34, 1.12) if motor else (0.4, 1.1)
        foot = (0.05, 0.32) if motor else (-0.05, 0.24)
        sprite.add(plane(limb((-0.24, seat), (0.16, 0.68), 0.11, 0.085)), legs)
        sprite.add(plane(limb((0.16, 0.68), foot, 0.085, 0.06)), legs * 0.9)
        sprite.add(plane(limb(foot, (foot[0] + 0.14, foot[1] - 0.03), 0.055)), (30, 28, 28))
        sprite.add(plane(limb((-0.22, seat + 0.03), neck, 0.15, 0.13)), top)
        sprite.add(plane(limb((0.1, seat + 0.48), (0.26, seat + 0.2), 0.065)), top * 0.85)
        sprite.add(plane(limb((0.26, seat + 0.2), hand, 0.055)), top * 0.85)
        head = (0.22, seat + 0.8)
    else:
        for side in (-1, 1):
            thigh = limb((side * 0.12, seat), (side * 0.22, 0.55), 0.105, 0.08)
            sprite.add(plane(thigh), legs * (0.85 if side < 0 else 1.0))
            sprite.add(plane(limb((side * 0.22, 0.55), (side * 0.17, 0.26), 0.075, 0.055)), legs * 0.85)
            sprite.add(plane(limb((side * 0.22, seat + 0.5), (side * 0.4, seat + 0.16), 0.07)), top * 0.82)
        sprite.add(plane([(-0.22, seat + 0.56), (0.22, seat + 0.56), (0.19, seat - 0.05), (-0.19, seat - 0.05)]), top)
        sprite.add(plane(limb((-0.16, seat + 0.54), (0.16, seat + 0.54), 0.1)), top)
        if rng.random() < 0.4:
            sprite.add(plane(box(-0.15, seat + 0.12, 0.15, seat + 0.5)), _pick(rng, CLOTHES), body=False)
        head = (0.0, seat + 0.8)
    _head(sprite, plane, rng, *head, 1.05, 1 if sideways else 2, motor or rng.random() < 0.6)
    canvas.stamp("rider", sprite, z)
