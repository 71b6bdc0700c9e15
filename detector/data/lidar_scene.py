"""A random street around the scanner: what stands where, as boxes, cylinders, discs and ellipsoids in metres.

Coordinates: the scanner's foot is the origin, x and y on the ground, z up. The street runs along u, across it is v;
`street_heading` turns (u, v) into (x, y). Every draw comes from the generator that is handed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

CLASS_NAMES = ("car", "truck", "bus", "motorcycle", "bicycle", "scooter", "person", "rider")
DEGREES_PER_PIXEL = 360 / 1024  # the scanner's columns; its 128 rows over 45 degrees have the same pitch

# Boxes of the report's training set by class; a rider comes with the bicycle or scooter that carries it.
REPORT_CLASS_COUNTS = {
    "car": 9563, "person": 4910, "rider": 1588, "bicycle": 1043, "scooter": 615, "bus": 445, "truck": 123,
    "motorcycle": 0,
}  # fmt: skip
# Boxes per image of a full turn: quantiles of the report's training set (ends by extrapolation).
BOXES_PER_IMAGE = ((0.0, 0.1, 0.5, 0.9, 1.0), (1.0, 4.0, 12.0, 17.0, 24.0))
# Some of what is placed ends up hidden behind something else: placed objects per visible one, calibrated on 400 images.
PLACED_PER_VISIBLE = 1.24
# Apparent height in pixels is log-normal about the class's median in the report; its overall 10/50/90 % quantiles
# (10.5, 22, 51) give the spread. Distance follows from real height and apparent height.
APPARENT_HEIGHT_PX = {"car": 25, "truck": 43, "bus": 24, "bicycle": 25, "person": 26, "ride": 31, "scooter": 30}
APPARENT_HEIGHT_SPREAD = 0.58
NEAREST_M, FARTHEST_M = 2.5, 50.0

STREET_HALF_WIDTH_M = 6.5
PAVEMENT_M = 4.5
SCANNER_HEIGHT_M = (1.6, 2.0)


@dataclass
class Solid:
    """One convex part. kind: box (half sizes), cylinder (upright; radius, half height), disc (upright wheel; outer and
    inner radius, facing `yaw` + 90 degrees), ellipsoid (half sizes)."""

    kind: str
    centre: tuple[float, float, float]
    size: tuple[float, float, float]
    yaw: float = 0.0
    albedo: float = 0.4  # share of ambient light thrown back
    reflectivity: float = 0.4  # the same for the laser
    porosity: float = 0.0  # share of rays that pass through (leaves, spokes)


@dataclass
class Thing:
    """Parts that move together; `label` is a class name, or "" for what is not annotated."""

    label: str
    parts: list[Solid]


@dataclass
class Street:
    """Everything in one scene."""

    scanner_height: float
    heading: float
    road_albedo: float
    things: list[Thing] = field(default_factory=list)


class _Builder:
    """Places parts of one thing: local (forward, left, up) coordinates at a pose on the ground."""

    def __init__(self, label: str, x: float, y: float, yaw: float, scale: float = 1.0) -> None:
        self.thing = Thing(label, [])
        self.x, self.y, self.yaw, self.scale = x, y, yaw, scale

    def add(
        self, kind: str, at: tuple[float, float, float], size: tuple[float, float, float], **surface: float
    ) -> None:
        c, s, k = math.cos(self.yaw), math.sin(self.yaw), self.scale
        centre = (self.x + k * (c * at[0] - s * at[1]), self.y + k * (s * at[0] + c * at[1]), k * at[2])
        sides = (k * size[0], k * size[1], k * size[2])
        self.thing.parts.append(Solid(kind, centre, sides, self.yaw, **surface))


def make_car(x: float, y: float, yaw: float, rng: np.random.Generator) -> list[Thing]:
    """Body, cabin, wheels and number plates of a car of 3.5..4.5 m."""
    length, width, height = rng.uniform(3.5, 4.5), rng.uniform(1.65, 1.85), rng.uniform(1.45, 1.9)
    paint, laser = rng.uniform(0.08, 0.9), rng.uniform(0.15, 0.75)
    b = _Builder("car", x, y, yaw)
    waist = height * 0.6
    b.add(
        "box", (0, 0, (0.22 + waist) / 2), (length / 2, width / 2, (waist - 0.22) / 2), albedo=paint, reflectivity=laser
    )
    cabin, back = length * rng.uniform(0.27, 0.34), -length * rng.uniform(0.03, 0.12)
    b.add(
        "box",
        (back, 0, (waist + height) / 2),
        (cabin, width * 0.44, (height - waist) / 2),
        albedo=0.12,
        reflectivity=0.1,
    )
    b.add("box", (back, 0, height - 0.04), (cabin * 0.85, width * 0.44, 0.05), albedo=paint, reflectivity=laser)
    for end in (-1, 1):
        b.add("box", (end * length / 2, 0, 0.5), (0.03, 0.26, 0.07), albedo=0.9, reflectivity=2.5)
        for side in (-1, 1):
            b.add(
                "disc",
                (end * length * 0.31, side * width * 0.5, 0.32),
                (0.32, 0.0, 0.0),
                albedo=0.05,
                reflectivity=0.08,
            )
            b.add(
                "box",
                (end * length * 0.49, side * width * 0.36, 0.68),
                (0.06, 0.16, 0.07),
                albedo=0.8,
                reflectivity=1.3,
            )
    return [b.thing]


def make_truck(x: float, y: float, yaw: float, rng: np.random.Generator) -> list[Thing]:
    """Cab, gap and cargo box of a lorry of about 7.5 m."""
    b = _Builder("truck", x, y, yaw)
    paint, cargo, height = rng.uniform(0.1, 0.8), rng.uniform(0.3, 0.95), rng.uniform(3.2, 3.8)
    b.add("box", (2.7, 0, 1.65), (1.0, 1.2, 1.2), albedo=paint, reflectivity=0.5)
    b.add("box", (3.68, 0, 2.1), (0.06, 1.1, 0.5), albedo=0.1, reflectivity=0.08)
    b.add("box", (-1.2, 0, (0.95 + height) / 2), (2.7, 1.25, (height - 0.95) / 2), albedo=cargo, reflectivity=0.7)
    b.add("box", (0.3, 0, 0.75), (3.2, 0.45, 0.2), albedo=0.1, reflectivity=0.15)
    for forward in (2.6, -1.8, -3.0):
        for side in (-1.1, 1.1):
            b.add("disc", (forward, side, 0.48), (0.48, 0.0, 0.0), albedo=0.05, reflectivity=0.08)
    return [b.thing]


def make_bus(x: float, y: float, yaw: float, rng: np.random.Generator) -> list[Thing]:
    """Body, window band and wheels of a city bus of 10..12 m."""
    b = _Builder("bus", x, y, yaw)
    paint, half = rng.uniform(0.3, 0.9), rng.uniform(5.0, 6.0)
    b.add("box", (0, 0, 0.85), (half, 1.27, 0.55), albedo=paint, reflectivity=0.6)
    b.add("box", (0, 0, 1.95), (half - 0.02, 1.25, 0.55), albedo=0.1, reflectivity=0.08)
    b.add("box", (0, 0, 2.8), (half, 1.27, 0.3), albedo=paint, reflectivity=0.6)
    for forward in (half - 2.6, -half + 3.2):
        for side in (-1.28, 1.28):
            b.add("disc", (forward, side, 0.48), (0.48, 0.0, 0.0), albedo=0.05, reflectivity=0.08)
    return [b.thing]


def _add_human(b: _Builder, hip: float, lean: float, rng: np.random.Generator, walking: bool) -> None:
    """Legs, torso, arms and head above a hip height in metres."""
    coat, trousers, laser = rng.uniform(0.05, 0.85), rng.uniform(0.05, 0.5), rng.uniform(0.2, 0.8)
    stride = rng.uniform(0.0, 0.22) if walking else 0.12
    foot = 0.0 if walking else hip - 0.62
    for side in (-1, 1):
        b.add(
            "cylinder", (side * stride, side * 0.1, (foot + hip) / 2), (0.085, 0.085, (hip - foot) / 2),
            albedo=trousers, reflectivity=laser * 0.8,
        )  # fmt: skip
        b.add("cylinder", (lean + 0.05, side * 0.24, hip + 0.3), (0.055, 0.055, 0.28), albedo=coat, reflectivity=laser)
    b.add("ellipsoid", (lean * 0.6, 0, hip + 0.3), (0.16, 0.22, 0.36), albedo=coat, reflectivity=laser)
    b.add("ellipsoid", (lean * 1.3, 0, hip + 0.74), (0.11, 0.1, 0.14), albedo=0.45, reflectivity=0.45)


def make_person(x: float, y: float, yaw: float, rng: np.random.Generator) -> list[Thing]:
    """Someone on foot, 1.2..1.95 m tall."""
    b = _Builder("person", x, y, yaw, scale=float(np.clip(rng.normal(0.99, 0.06), 0.7, 1.12)))
    _add_human(b, hip=0.87, lean=0.0, rng=rng, walking=True)
    return [b.thing]


def make_bicycle(x: float, y: float, yaw: float, rng: np.random.Generator) -> list[Thing]:
    """Two wheels with spokes, frame, handlebar and saddle."""
    b = _Builder("bicycle", x, y, yaw)
    paint = rng.uniform(0.1, 0.8)
    for forward in (-0.52, 0.52):
        b.add("disc", (forward, 0, 0.34), (0.36, 0.27, 0.0), albedo=0.1, reflectivity=0.35)
        b.add("disc", (forward, 0, 0.34), (0.27, 0.0, 0.0), albedo=0.3, reflectivity=0.3, porosity=0.75)
    b.add("box", (0.0, 0, 0.58), (0.36, 0.035, 0.06), albedo=paint, reflectivity=0.5)
    b.add("box", (-0.05, 0, 0.4), (0.06, 0.035, 0.22), albedo=paint, reflectivity=0.5)
    b.add("box", (0.45, 0, 0.75), (0.05, 0.04, 0.28), albedo=paint, reflectivity=0.5)
    b.add("box", (0.4, 0, 1.03), (0.06, 0.28, 0.03), albedo=0.15, reflectivity=0.4)
    b.add("box", (-0.25, 0, 0.92), (0.13, 0.08, 0.05), albedo=0.1, reflectivity=0.2)
    b.add("box", (-0.88, 0, 0.6), (0.02, 0.04, 0.04), albedo=0.8, reflectivity=3.0)
    return [b.thing]


def make_scooter(x: float, y: float, yaw: float, rng: np.random.Generator) -> list[Thing]:
    """A kick scooter: deck, stem, handlebar and two small wheels."""
    b = _Builder("scooter", x, y, yaw)
    b.add("box", (-0.05, 0, 0.16), (0.42, 0.08, 0.04), albedo=0.25, reflectivity=0.5)
    b.add("cylinder", (0.45, 0, 0.65), (0.045, 0.045, 0.5), albedo=rng.uniform(0.1, 0.7), reflectivity=0.7)
    b.add("box", (0.42, 0, 1.15), (0.04, 0.26, 0.035), albedo=0.15, reflectivity=0.5)
    for forward in (-0.5, 0.5):
        b.add("disc", (forward, 0, 0.12), (0.12, 0.0, 0.0), albedo=0.08, reflectivity=0.3)
    b.add("box", (0.5, 0, 0.95), (0.03, 0.06, 0.05), albedo=0.8, reflectivity=3.0)
    return [b.thing]


def make_ride(x: float, y: float, yaw: float, rng: np.random.Generator) -> list[Thing]:
    """A rider on a bicycle or a scooter, in the report's proportion; two annotated things."""
    bicycles, scooters = REPORT_CLASS_COUNTS["bicycle"], REPORT_CLASS_COUNTS["scooter"]
    rider = _Builder("rider", x, y, yaw, scale=float(np.clip(rng.normal(0.99, 0.05), 0.8, 1.1)))
    if rng.random() < bicycles / (bicycles + scooters):
        _add_human(rider, hip=0.98, lean=0.25, rng=rng, walking=False)
        return [rider.thing, *make_bicycle(x, y, yaw, rng)]
    _add_human(rider, hip=1.04, lean=0.08, rng=rng, walking=False)
    return [rider.thing, *make_scooter(x, y, yaw, rng)]


# What is placed: its maker, real height in metres, ground radius kept free around it, and how often (in boxes; cars find
# a free spot less often than they are drawn and buses hide less, which the two factors make good, as seen on 400 images).
_LONE = max(0, REPORT_CLASS_COUNTS["bicycle"] + REPORT_CLASS_COUNTS["scooter"] - REPORT_CLASS_COUNTS["rider"])
PLACED = {
    "car": (make_car, 1.6, 2.0, 1.4 * REPORT_CLASS_COUNTS["car"]),
    "truck": (make_truck, 3.5, 4.0, REPORT_CLASS_COUNTS["truck"]),
    "bus": (make_bus, 3.1, 6.2, 0.75 * REPORT_CLASS_COUNTS["bus"]),
    "person": (make_person, 1.72, 0.45, REPORT_CLASS_COUNTS["person"]),
    "ride": (make_ride, 1.75, 1.0, REPORT_CLASS_COUNTS["rider"]),
    "bicycle": (make_bicycle, 1.1, 1.0, _LONE / 2),
    "scooter": (make_scooter, 1.2, 0.8, _LONE / 2),
}


def random_street(rng: np.random.Generator, field_of_view_degrees: float) -> Street:
    """A street with buildings, trees, poles and road users in the report's mix over the field of view."""
    street = Street(rng.uniform(*SCANNER_HEIGHT_M), rng.uniform(0, 2 * math.pi), rng.uniform(0.12, 0.3))
    half_width = STREET_HALF_WIDTH_M + rng.uniform(-1.0, 2.0)
    offset = rng.uniform(-2.5, 2.5)  # where on the road the scanner drives
    occupied: list[tuple[float, float, float]] = [(0.0, 0.0, 3.0)]  # discs (u, v, radius) that are taken
    wanted = np.interp(rng.random(), *BOXES_PER_IMAGE) * field_of_view_degrees / 360 * PLACED_PER_VISIBLE
    names = list(PLACED)
    weights = np.array([PLACED[name][3] for name in names], dtype=np.float64)
    count = int(wanted + rng.random())
    while count > 0:
        name = names[int(rng.choice(len(names), p=weights / weights.sum()))]
        things = _place(name, half_width, offset, street, occupied, field_of_view_degrees, rng)
        street.things += things
        count -= max(1, len(things))
    _add_surroundings(street, half_width, offset, occupied, rng)
    return street


def _place(
    name: str,
    half_width: float,
    offset: float,
    street: Street,
    occupied: list[tuple[float, float, float]],
    field_of_view_degrees: float,
    rng: np.random.Generator,
) -> list[Thing]:
    """The things of one draw at a free spot of the strip where its kind belongs; none if no spot was found."""
    make, height, radius, _ = PLACED[name]
    for _ in range(80):
        apparent = APPARENT_HEIGHT_PX[name] * math.exp(rng.normal(0, APPARENT_HEIGHT_SPREAD))
        distance = height / 2 / math.tan(math.radians(apparent * DEGREES_PER_PIXEL) / 2)
        if not NEAREST_M + radius * 0.5 < distance < FARTHEST_M:
            continue
        lateral, yaw = _strip(name, half_width, rng)
        v = lateral - offset
        if abs(v) >= distance:
            continue
        u = math.copysign(math.sqrt(distance**2 - v**2), rng.uniform(-1, 1))
        x, y = turn(u, v, street.heading)
        azimuth = math.degrees(math.atan2(y, x))
        if abs(azimuth) > field_of_view_degrees / 2:
            continue
        if any(math.hypot(u - a, v - b) < radius + r for a, b, r in occupied):
            continue
        if name == "car" and rng.random() > _end_on_share(math.atan2(v, u) - yaw):
            continue
        occupied.append((u, v, radius))
        return make(x, y, street.heading + yaw, rng)
    return []


def _end_on_share(view_angle: float) -> float:
    """How often a car seen under this angle against its length is kept: the report's cars are mostly seen end-on.

    Their boxes are as tall as wide (median 20 x 22 pixels), a car's side is 2.8 times as wide as tall.
    """
    width_by_height = (1.8 * abs(math.cos(view_angle)) + 4.2 * abs(math.sin(view_angle))) / 1.6
    return min(1.0, (1.1 / width_by_height) ** 8)


def _strip(name: str, half_width: float, rng: np.random.Generator) -> tuple[float, float]:
    """(lateral position, yaw against the street) where a kind of road user is found."""
    side = -1.0 if rng.random() < 0.5 else 1.0
    along = (0.0 if side > 0 else math.pi) + rng.normal(0, 0.05)
    if name in ("car", "truck", "bus"):
        if name == "car" and rng.random() < 0.55:  # parked at the kerb
            return side * (half_width - 1.1), along
        if name == "car" and rng.random() < 0.12:  # crossing or turning
            return side * rng.uniform(1, half_width), rng.uniform(0, 2 * math.pi)
        return side * 1.7, along
    if name == "ride":
        return side * rng.uniform(half_width - 3.0, half_width - 0.3), along + rng.normal(0, 0.15)
    if name == "person" and rng.random() < 0.25:  # crossing the road
        return rng.uniform(-half_width, half_width), math.copysign(math.pi / 2, side) + rng.normal(0, 0.4)
    return side * (half_width + rng.uniform(0.4, PAVEMENT_M - 0.6)), along + rng.normal(0, 0.6)


def turn(u: float, v: float, heading: float) -> tuple[float, float]:
    """Street coordinates (along, across) to ground coordinates (x, y)."""
    c, s = math.cos(heading), math.sin(heading)
    return c * u - s * v, s * u + c * v


def _add_surroundings(
    street: Street,
    half_width: float,
    offset: float,
    occupied: list[tuple[float, float, float]],
    rng: np.random.Generator,
) -> None:
    """House fronts with gaps, trees, lamp posts, bollards and bins on both sides; nothing of it is annotated."""
    for side in (-1.0, 1.0):
        front = half_width + PAVEMENT_M + rng.uniform(0, 3)
        u = -90.0
        while u < 90:
            length, depth, height = rng.uniform(8, 28), rng.uniform(6, 14), rng.uniform(4, 18)
            if rng.random() < 0.85:
                _add_house(street, u + length / 2, side * (front + depth / 2) - offset, (length, depth, height), rng)
            u += length + (rng.uniform(3, 10) if rng.random() < 0.3 else 0.0)
        for _ in range(rng.integers(3, 9)):
            u, v = rng.uniform(-45, 45), side * (half_width + rng.uniform(0.4, 1.2)) - offset
            if not any(math.hypot(u - a, v - b) < r + 0.5 for a, b, r in occupied):
                x, y = turn(u, v, street.heading)
                street.things.append(_street_furniture(x, y, rng))


def _add_house(street: Street, u: float, v: float, size: tuple[float, float, float], rng: np.random.Generator) -> None:
    x, y = turn(u, v, street.heading)
    b = _Builder("", x, y, street.heading)
    wall = rng.uniform(0.2, 0.8)
    length, depth, height = size
    b.add(
        "box", (0, 0, height / 2), (length / 2, depth / 2, height / 2), albedo=wall, reflectivity=rng.uniform(0.3, 0.7)
    )
    for floor in np.arange(1.0, height - 1.6, 3.0):  # window bands, a hand's breadth in front of the wall
        b.add(
            "box", (0, 0, float(floor) + 0.9), (length / 2 - 0.6, depth / 2 + 0.05, 0.65),
            albedo=0.15, reflectivity=0.12,
        )  # fmt: skip
    street.things.append(b.thing)


def _street_furniture(x: float, y: float, rng: np.random.Generator) -> Thing:
    kind = rng.choice(["tree", "lamp", "sign", "bollard", "bin", "hedge"], p=[0.3, 0.2, 0.15, 0.15, 0.1, 0.1])
    b = _Builder("", x, y, rng.uniform(0, 2 * math.pi))
    if kind == "tree":
        trunk, crown = rng.uniform(1.8, 3.0), rng.uniform(1.2, 2.6)
        b.add("cylinder", (0, 0, trunk / 2), (0.16, 0.16, trunk / 2), albedo=0.2, reflectivity=0.3)
        b.add(
            "ellipsoid", (0, 0, trunk + crown * 0.8), (crown, crown, crown * 1.1),
            albedo=0.55, reflectivity=0.5, porosity=0.35,
        )  # fmt: skip
    elif kind == "lamp":
        b.add("cylinder", (0, 0, 3.5), (0.09, 0.09, 3.5), albedo=0.3, reflectivity=0.4)
        b.add("box", (0.5, 0, 7.0), (0.6, 0.12, 0.08), albedo=0.4, reflectivity=0.4)
    elif kind == "sign":
        b.add("cylinder", (0, 0, 1.3), (0.04, 0.04, 1.3), albedo=0.4, reflectivity=0.5)
        b.add("box", (0, 0, 2.4), (0.03, 0.32, 0.32), albedo=0.8, reflectivity=3.0)
    elif kind == "bollard":
        b.add("cylinder", (0, 0, 0.5), (0.1, 0.1, 0.5), albedo=0.3, reflectivity=0.6)
    elif kind == "bin":
        b.add("box", (0, 0, 0.6), (0.35, 0.35, 0.6), albedo=0.2, reflectivity=0.3)
    else:
        b.add("box", (0, 0, 0.6), (1.6, 0.4, 0.6), albedo=0.5, reflectivity=0.45, porosity=0.15)
    return b.thing
