"""Poles, traffic lights, signs, walls, fences and what else stands about."""

import numpy as np

from scenes.canvas import Canvas, Sprite, box, disc, limb, quad_texture

POLE_SHARE = 0.0125  # least width of a near pole over the picture's: three pixels of 256
STEEL = (122, 126, 128)


def half_width(camera, metres: float, z: float) -> float:
    """Half of a pole's width in metres: poles up to 28 m away are drawn wide enough to be learned."""
    return camera.at_least(metres, z, POLE_SHARE if z < 28 else 0.4 * POLE_SHARE) / 2


def pole(canvas: Canvas, x: float, z: float, high: float, metres: float = 0.16, colour=STEEL) -> None:
    """An upright pole."""
    light, camera = canvas.light, canvas.camera
    half = half_width(camera, metres, z)
    plane = camera.plane(x, z)
    canvas.contact(x, z, 2 * half, 1.5 * half, 0.4)
    sprite = Sprite(light, 0.3)
    sprite.add(plane(box(-half, 0, half, high)), colour)
    lit = box(-half, 0, -0.2 * half, high) if light.sun < 0 else box(0.2 * half, 0, half, high)
    sprite.add(plane(lit), np.array(colour) * 1.12, 0.9, body=False)
    sprite.add(plane(box(-1.3 * half, 0, 1.3 * half, 0.5)), np.array(colour) * 0.8)
    canvas.stamp("pole", sprite, z)


def street_lamp(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A pole with an arm over the street and a lamp at its end."""
    high, reach = rng.uniform(6.0, 8.0), -np.sign(x) * rng.uniform(1.2, 2.2)
    half = half_width(canvas.camera, 0.18, z)
    plane = canvas.camera.plane(x, z)
    canvas.contact(x, z, 2 * half, 1.5 * half, 0.4)
    sprite = Sprite(canvas.light, 0.45)
    colour = np.array([(118, 122, 124), (92, 98, 96), (140, 142, 142)][rng.integers(3)])
    sprite.add(plane(box(-half, 0, half, high)), colour)
    lit = box(-half, 0, 0, high) if canvas.light.sun < 0 else box(0, 0, half, high)
    sprite.add(plane(lit), colour * 1.14, body=False)
    sprite.add(plane(limb((0, high - 0.1), (reach, high + 0.35), half * 0.8)), colour)
    sprite.add(plane(limb((reach, high + 0.3), (reach * 1.4, high + 0.3), 0.16)), colour * 0.9)
    sprite.add(plane(box(-1.4 * half, 0, 1.4 * half, 0.9)), colour * 0.85)
    canvas.stamp("pole", sprite, z)


def traffic_light(canvas: Canvas, x: float, z: float, above: float, phase: int, size: float) -> None:
    """Three lamps in a dark housing with a pale rim, its lower edge `above` the ground.

    Args:
        phase: 0 red, 1 amber, 2 green.
    """
    camera = canvas.camera
    half = camera.at_least(0.24 * size, z, 0.008)
    unit = half / 0.24
    plane = camera.plane(x, z, 0.0, above)
    sprite = Sprite(canvas.light, 0.25)
    sprite.add(plane(box(-0.30 * unit, -0.06 * unit, 0.30 * unit, 1.06 * unit)), (206, 204, 196))
    sprite.add(plane(box(-0.24 * unit, 0, 0.24 * unit, unit)), (26, 30, 30))
    for lamp, (on, off) in enumerate((((255, 60, 40), (70, 26, 24)), ((255, 190, 50), (74, 60, 26)),
                                      ((70, 255, 150), (24, 64, 44)))):
        y = (0.83 - 0.33 * lamp) * unit
        glows = lamp == phase
        if glows:
            sprite.add(plane(disc(0, y, 0.21 * unit)), np.array(on) * 0.55, glows=True, body=False)
        sprite.add(plane(disc(0, y, 0.15 * unit)), on if glows else off, glows=glows, body=False)
    canvas.stamp("traffic light", sprite, z)


def signal_post(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A pole with a traffic light, at times with a second one on an arm over the road."""
    phase, camera = int(rng.choice([0, 0, 1, 2, 2])), canvas.camera
    inward = -np.sign(x)
    if rng.random() < 0.45:
        half = half_width(camera, 0.16, z)
        reach = inward * min(abs(x) - 1.0, rng.uniform(2.8, 4.2))
        sprite = Sprite(canvas.light, 0.4)
        plane = camera.plane(x, z)
        sprite.add(plane(box(-half, 0, half, 5.6)), STEEL)
        sprite.add(plane(limb((0, 5.4), (reach, 5.6), half * 0.8)), STEEL)
        canvas.contact(x, z, 2 * half, 2 * half, 0.4)
        canvas.stamp("pole", sprite, z)
        traffic_light(canvas, x + reach * 0.92, z - 0.1, 4.7, phase, 1.25)
    else:
        pole(canvas, x, z, 3.6, 0.15)
    traffic_light(canvas, x, z - 0.1, 2.5, phase, 1.15)


def _round_sign(sprite: Sprite, plane, rng: np.random.Generator, unit: float) -> None:
    if rng.random() < 0.6:  # prohibition
        sprite.add(plane(disc(0, 0, unit)), (198, 34, 40))
        if rng.random() < 0.4:  # no entry, or a speed limit
            sprite.add(plane(box(-0.68 * unit, -0.17 * unit, 0.68 * unit, 0.17 * unit)), (242, 242, 238), body=False)
        else:
            sprite.add(plane(disc(0, 0, 0.7 * unit)), (240, 240, 236), body=False)
            for x in (-0.26, 0.26):
                sprite.add(plane(disc(x * unit, 0, 0.2 * unit, squash=1.9)), (40, 40, 44), body=False)
                sprite.add(plane(disc(x * unit, 0, 0.09 * unit, squash=2.6)), (240, 240, 236), body=False)
    else:
        sprite.add(plane(disc(0, 0, unit)), (236, 238, 240))
        sprite.add(plane(disc(0, 0, 0.9 * unit)), (28, 84, 176), body=False)
        arrow = np.array([(-0.12, -0.6), (-0.12, 0.1), (-0.4, 0.1), (0, 0.6), (0.4, 0.1), (0.12, 0.1), (0.12, -0.6)])
        turn = rng.choice([0.0, 0.8, -0.8])
        rotate = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        sprite.add(plane(unit * arrow @ rotate), (240, 240, 240), body=False)


def _angular_sign(sprite: Sprite, plane, rng: np.random.Generator, unit: float) -> None:
    kind = rng.integers(4)
    triangle = np.array([(-1.1, -0.8), (1.1, -0.8), (0, 1.1)])
    if kind == 0:  # warning, or give way (point down)
        flip = rng.choice([1, -1])
        sprite.add(plane(triangle * (unit, flip * unit)), (200, 34, 40))
        sprite.add(plane(triangle * (0.62 * unit, flip * 0.62 * unit)), (242, 242, 236), body=False)
        if flip > 0:
            sprite.add(plane(box(-0.09 * unit, -0.3 * unit, 0.09 * unit, 0.35 * unit)), (40, 40, 44), body=False)
    elif kind == 1:  # priority road
        diamond = np.array([(-1.1, 0), (0, 1.1), (1.1, 0), (0, -1.1)])
        sprite.add(plane(diamond * unit), (240, 240, 236))
        sprite.add(plane(diamond * 0.72 * unit), (248, 196, 40), body=False)
    elif kind == 2:  # stop
        turn = np.linspace(0, 2 * np.pi, 8, endpoint=False) + np.pi / 8
        octagon = np.stack([np.cos(turn), np.sin(turn)], axis=1)
        sprite.add(plane(octagon * 1.05 * unit), (242, 242, 238))
        sprite.add(plane(octagon * 0.95 * unit), (196, 30, 36), body=False)
        sprite.add(plane(box(-0.65 * unit, -0.2 * unit, 0.65 * unit, 0.2 * unit)), (240, 240, 238), body=False)
    else:  # parking
        sprite.add(plane(box(-0.85 * unit, -0.95 * unit, 0.85 * unit, 0.95 * unit)), (240, 242, 244))
        sprite.add(plane(box(-0.77 * unit, -0.87 * unit, 0.77 * unit, 0.87 * unit)), (26, 82, 172), body=False)
        sprite.add(plane(box(-0.35 * unit, -0.6 * unit, -0.12 * unit, 0.6 * unit)), (242, 242, 242), body=False)
        sprite.add(plane(disc(-0.02 * unit, 0.25 * unit, 0.36 * unit)), (242, 242, 242), body=False)
        sprite.add(plane(disc(-0.02 * unit, 0.25 * unit, 0.15 * unit)), (26, 82, 172), body=False)


def traffic_sign(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A pole with one or two plates, or with a large direction board."""
    camera = canvas.camera
    unit = max(rng.uniform(0.42, 0.52), 0.012 * camera.width * z / camera.focal_px)
    if rng.random() < 0.22:
        high, half = rng.uniform(2.9, 3.4), rng.uniform(1.0, 1.4)
        pole(canvas, x - 0.6 * half, z, high, 0.12)
        pole(canvas, x + 0.6 * half, z, high, 0.12)
        plane = camera.plane(x, z - 0.06, 0.0, high - 0.9)
        board, text = [((246, 200, 50), (40, 40, 40)), ((30, 86, 170), (240, 240, 240)),
                       ((238, 238, 234), (40, 40, 40))][rng.integers(3)]
        sprite = Sprite(canvas.light, canvas.light.frontal)
        sprite.add(plane(box(-half - 0.05, -0.05, half + 0.05, 1.25)), (60, 60, 60))
        sprite.add(plane(box(-half, 0, half, 1.2)), board, body=False)
        for y in (0.2, 0.7):
            sprite.add(plane(box(-0.8 * half, y, rng.uniform(0.1, 0.6) * half, y + 0.26)), text, body=False)
            sprite.add(plane(np.array([(0.7, y), (0.9, y + 0.13), (0.7, y + 0.26)]) * (half, 1)), text, body=False)
        canvas.stamp("traffic sign", sprite, z)
        return
    count = int(rng.choice([1, 2], p=[0.65, 0.35]))
    pole(canvas, x, z, 2.3 + 2.1 * unit * count, 0.11, (140, 142, 142))
    for index in range(count):
        plane = camera.plane(x, z - 0.06, 0.0, 2.3 + unit + 2.15 * unit * index)
        sprite = Sprite(canvas.light, 0.35 + 0.5 * canvas.light.frontal)
        (_round_sign if rng.random() < 0.5 else _angular_sign)(sprite, plane, rng, unit)
        canvas.stamp("traffic sign", sprite, z)


def wall(canvas: Canvas, rng: np.random.Generator, x: float, z0: float, z1: float, high: float) -> None:
    """A free-standing stone or concrete wall along the street, with its end."""
    light, camera = canvas.light, canvas.camera
    scale = float(np.clip(camera.pixels(0.9, max(z0, 5.0)), 4, 42))
    rows, columns = max(4, int(high * scale)), max(4, int((z1 - z0) * scale))
    stone = np.array([(168, 158, 140), (148, 146, 142), (160, 136, 112), (178, 174, 166)][rng.integers(4)])
    sunlit = light.side(int(np.sign(x)))
    image = np.empty((rows, columns, 3), np.float32)
    image[:] = light.on(stone, sunlit)
    course, step = 0.42, rng.uniform(0.6, 1.0)
    for row in range(int(high / course) + 1):  # blocks, each of its own shade
        top, bottom = rows - int((row + 1) * course * scale), rows - int(row * course * scale)
        for left in np.arange(-(row % 2) * step / 2, z1 - z0, step):
            c0, c1 = max(int(left * scale), 0), int((left + step) * scale)
            block = image[max(top, 0):max(bottom, 0), c0:c1]
            block *= rng.uniform(0.86, 1.1)
            block[-1:] *= 0.72
            block[:, :1] *= 0.72
    image += 4 * light.spread(light.clouds, rows, columns, 5)[..., None]
    image[:max(1, int(0.16 * scale))] = light.on(stone * 1.15, 0.7)
    image = np.clip(image, 0, 255).astype(np.uint8)
    if z0 > 5:
        end = camera.plane(x, z0)([(0, 0), (0, high), (np.sign(x) * 0.35, high), (np.sign(x) * 0.35, 0)])
        plain = np.full((4, 4, 3), light.on(stone * 0.85, light.frontal), np.uint8)
        canvas.add("wall", end, quad_texture(plain, end))
    front = camera.plane(x, z0, np.pi / 2)([(0, 0), (0, high), (z1 - z0, high), (z1 - z0, 0)])
    veil = light.veil((z0 + z1) / 2)
    canvas.add("wall", front, quad_texture((image * (1 - veil) + light.haze * veil).astype(np.uint8), front))


def fence(canvas: Canvas, rng: np.random.Generator, x: float, z0: float, z1: float, high: float) -> None:
    """Railings or planks along the street; what is behind shows between the bars."""
    light, camera = canvas.light, canvas.camera
    plane = camera.plane(x, z0, np.pi / 2)
    colour = np.array([(52, 78, 66), (60, 62, 66), (134, 96, 62), (176, 178, 176)][rng.integers(4)])
    sunlit = light.side(int(np.sign(x)))
    length, gap = z1 - z0, rng.uniform(0.22, 0.3)
    bar = rng.uniform(0.09, 0.13)
    sprite = Sprite(light, sunlit)
    sprite.add(plane(box(0, 0, length, high)), None)
    for at in np.arange(0, length, gap):
        sprite.add(plane(box(at, 0.08, at + bar, high - 0.05)), colour * rng.uniform(0.92, 1.06), body=False)
    for y in (0.14, high - 0.22):
        sprite.add(plane(box(0, y, length, y + 0.11)), colour * 0.9, body=False)
    for at in np.arange(0, length + 0.1, 2.4):
        sprite.add(plane(box(at, 0, at + 0.16, high + 0.1)), colour * 0.75)
    canvas.stamp("fence", sprite, z0 + 0.3 * length)


def clutter(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A bin, a bollard, a bench or an advertising column: 'static', and 'dynamic' for what has wheels."""
    plane, kind = canvas.camera.plane(x, z), rng.integers(4)
    sprite = Sprite(canvas.light, 0.4)
    canvas.contact(x, z, 0.5, 0.35, 0.4)
    if kind == 0:  # litter bin
        sprite.add(plane(box(-0.28, 0, 0.28, 0.95)), (196, 104, 36))
        sprite.add(plane(box(-0.32, 0.8, 0.32, 0.98)), (84, 50, 30))
    elif kind == 1:  # wheelie bin
        sprite.add(plane([(-0.26, 0.08), (0.26, 0.08), (0.34, 1.05), (-0.34, 1.05)]), (58, 66, 62))
        sprite.add(plane(box(-0.38, 1.02, 0.38, 1.14)), (190, 170, 50))
        sprite.add(plane(disc(-0.2, 0.1, 0.1)), (20, 20, 20))
    elif kind == 2:  # advertising column
        sprite.add(plane(box(-0.6, 0, 0.6, 2.7)), (120, 128, 118))
        for _ in range(5):
            left, low = rng.uniform(-0.55, 0.1), rng.uniform(0.5, 1.8)
            sprite.add(plane(box(left, low, left + 0.45, low + 0.6)), rng.uniform(70, 235, 3), body=False)
        sprite.add(plane(disc(0, 2.7, 0.68, squash=0.35)), (76, 84, 76))
    else:  # bollard
        sprite.add(plane(box(-0.12, 0, 0.12, 0.95)), (196, 196, 190))
        sprite.add(plane(box(-0.12, 0.6, 0.12, 0.78)), (190, 40, 40))
    canvas.stamp("dynamic" if kind == 1 else "static", sprite, z)
