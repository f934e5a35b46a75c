"""The facts of the five worlds: palettes, frequencies of objects, and the light and camera they are seen with."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from types import MappingProxyType

Colour = tuple[float, ...]  # red, green, blue, 0 to 255
Range = tuple[float, float]

SPLITS = ("train", "val", "test")

TrainId = IntEnum(  # the 19 evaluated classes of Cityscapes
    "TrainId",
    "ROAD SIDEWALK BUILDING WALL FENCE POLE TRAFFIC_LIGHT TRAFFIC_SIGN VEGETATION TERRAIN SKY "
    "PERSON RIDER CAR TRUCK BUS TRAIN MOTORCYCLE BICYCLE",
    start=0,
)


@dataclass(frozen=True)
class Look:
    """Light and camera: ranges from which each image draws its own values."""

    sun: Range = (0.35, 0.6)  # how much of the light a cast shadow takes away, 0 to 1
    haze: Range = (0.001, 0.003)  # extinction of the air, per metre
    air: Colour = (196, 212, 230)  # what distance fades into
    exposure: Range = (0.95, 1.08)  # gain on all channels
    gamma: Range = (0.95, 1.08)  # exponent on intensities in 0 to 1; above 1 darkens
    contrast: Range = (0.98, 1.1)  # spread around the mean of the image; 1 keeps it
    saturation: Range = (1.0, 1.2)  # spread of the channels around grey; 1 keeps it
    tint: Colour = (1.0, 1.0, 1.0)  # gain per channel at full tint strength
    tint_strength: Range = (0.0, 0.0)  # blend between no tint (0) and `tint` (1)
    blur: Range = (0.0014, 0.0018)  # standard deviation of the lens blur as a share of the image height
    noise: Range = (1.0, 2.5)  # standard deviation of the sensor noise in grey levels, on a grid 256 rows high
    jpeg: Range = (100, 100)  # quality of the compression; 100 and above leaves it out
    lamps: Range = (0.0, 0.03)  # share of windows, headlights and street lamps that are lit


@dataclass(frozen=True)
class Domain:
    """One world: palettes, materials, frequencies, and the looks it is seen with."""

    name: str  # key in `DOMAINS`
    looks: tuple[Look, ...]  # one is drawn per image
    skies: tuple[tuple[Colour, Colour], ...]  # colour overhead, colour at the horizon
    clouds: Range  # share of the sky that they cover, 0 to 1
    materials: tuple[str, ...]  # of facades, see `textures.MATERIALS`
    facades: tuple[Colour, ...]
    roofs: tuple[Colour, ...]
    foliage: tuple[tuple[Colour, Colour], ...]  # leaf in shade, leaf in light
    grass: tuple[Colour, ...]  # lawns and verges
    asphalt: Range  # grey level of the road
    road_tone: Colour  # colour of the road relative to grey
    pavement: tuple[Colour, ...]  # sidewalks
    paints: tuple[Colour, ...]  # cars
    clothes: tuple[Colour, ...]
    rates: Mapping[str, float] = field(default_factory=dict)  # factors on how often a kind of object is placed

    def rate(self, kind: str) -> float:
        """Return the factor on the frequency of a kind of object, 1 if none is given."""
        return self.rates.get(kind, 1.0)


SOURCE = Domain(
    name="source",
    looks=(Look(), Look(sun=(0.45, 0.65), exposure=(1.0, 1.1)), Look(sun=(0.15, 0.35), saturation=(0.95, 1.1))),
    skies=(
        ((70, 130, 205), (190, 215, 240)),
        ((96, 150, 214), (208, 224, 240)),
        ((120, 140, 190), (240, 222, 200)),
        ((140, 160, 184), (214, 220, 226)),
    ),
    clouds=(0.0, 0.8),
    materials=("brick", "plaster", "concrete", "panels"),
    facades=(
        (172, 92, 70), (150, 84, 66), (196, 180, 150), (206, 196, 182), (160, 158, 156), (132, 138, 148),
        (196, 156, 104), (184, 124, 96), (140, 150, 140), (214, 206, 170), (120, 104, 96), (168, 176, 190),
    ),
    roofs=((142, 66, 52), (112, 62, 50), (84, 84, 92), (96, 80, 70)),
    foliage=(((22, 52, 20), (104, 150, 56)), ((16, 48, 26), (78, 132, 60)), ((40, 60, 18), (140, 158, 62))),
    grass=((92, 138, 58), (112, 144, 66), (84, 122, 60)),
    asphalt=(84, 112),
    road_tone=(1.0, 1.0, 1.04),
    pavement=((172, 166, 160), (156, 154, 154), (184, 172, 156)),
    paints=(
        (206, 206, 210), (36, 38, 44), (128, 132, 138), (176, 34, 34), (38, 72, 148), (226, 226, 222),
        (150, 104, 40), (46, 106, 76), (92, 30, 40), (222, 178, 52), (78, 92, 112),
    ),
    clothes=(
        (178, 44, 48), (44, 66, 136), (52, 54, 62), (226, 222, 212), (212, 158, 54), (64, 118, 92),
        (120, 82, 142), (92, 84, 78), (30, 34, 44), (206, 112, 130),
    ),
)  # fmt: skip

DEVELOPMENT_LOOK = Look(
    sun=(0.05, 0.3), haze=(0.002, 0.006), air=(192, 204, 204), exposure=(0.85, 1.1), gamma=(0.95, 1.25),
    contrast=(0.72, 0.92), saturation=(0.65, 0.95), tint=(0.86, 1.02, 0.98), tint_strength=(0.4, 1.2),
    blur=(0.0016, 0.0032), noise=(2.5, 6.0), lamps=(0.0, 0.1),
)  # fmt: skip

DEVELOPMENT = replace(
    SOURCE,
    name="development",
    looks=(
        DEVELOPMENT_LOOK,
        replace(DEVELOPMENT_LOOK, haze=(0.008, 0.018), contrast=(0.75, 0.9)),
        replace(DEVELOPMENT_LOOK, exposure=(0.68, 0.86), gamma=(1.1, 1.3), noise=(3.0, 6.0), lamps=(0.1, 0.4)),
        replace(DEVELOPMENT_LOOK, tint=(1.12, 1.0, 0.82), haze=(0.003, 0.009), blur=(0.002, 0.004), jpeg=(45, 80)),
        replace(DEVELOPMENT_LOOK, exposure=(1.15, 1.35), contrast=(0.7, 0.85), tint_strength=(0.2, 0.8)),
    ),
    skies=(((168, 178, 188), (206, 210, 212)), ((140, 158, 180), (202, 210, 214)), ((186, 190, 190), (216, 216, 212))),
    clouds=(0.3, 1.0),
    materials=("plaster", "concrete", "panels", "brick", "stone"),
    facades=(
        (182, 172, 152), (150, 108, 90), (176, 178, 176), (130, 132, 134), (196, 184, 140), (160, 144, 128),
        (202, 200, 194), (140, 150, 152), (170, 120, 100),
    ),
    roofs=((112, 70, 60), (84, 82, 84), (100, 90, 84)),
    foliage=(((26, 50, 26), (94, 128, 62)), ((34, 56, 30), (116, 136, 76)), ((48, 54, 24), (138, 134, 68))),
    grass=((98, 126, 66), (120, 132, 78), (88, 112, 64)),
    asphalt=(78, 122),
    road_tone=(1.0, 1.0, 1.0),
)  # fmt: skip

HAZE = replace(
    SOURCE,
    name="haze",
    looks=(
        Look(
            sun=(0.0, 0.15), haze=(0.013, 0.026), air=(184, 208, 200), exposure=(0.9, 1.02), gamma=(1.0, 1.15),
            contrast=(0.78, 0.92), saturation=(0.7, 0.9), tint=(0.84, 1.02, 0.97), tint_strength=(0.3, 0.8),
            noise=(5.0, 9.0), lamps=(0.05, 0.3),
        ),
    ),
    skies=(((176, 200, 196), (188, 208, 202)), ((168, 190, 192), (184, 206, 202))),
    clouds=(0.0, 0.4),
)  # fmt: skip

DUSK = replace(
    SOURCE,
    name="dusk",
    looks=(
        Look(
            sun=(0.0, 0.12), haze=(0.003, 0.007), air=(120, 112, 150), exposure=(0.8, 0.98), gamma=(1.05, 1.22),
            contrast=(0.74, 0.9), saturation=(0.75, 0.95), tint=(0.92, 0.86, 1.14), tint_strength=(0.3, 0.8),
            noise=(3.0, 6.0), lamps=(0.25, 0.6),
        ),
    ),
    skies=(((84, 84, 136), (190, 150, 160)), ((96, 100, 150), (168, 150, 176)), ((70, 76, 124), (206, 160, 146))),
    clouds=(0.2, 0.9),
)  # fmt: skip

DUST = replace(
    SOURCE,
    name="dust",
    looks=(
        Look(
            sun=(0.15, 0.4), haze=(0.005, 0.012), air=(222, 200, 164), exposure=(0.92, 1.08), gamma=(0.95, 1.15),
            contrast=(0.78, 0.95), saturation=(0.75, 1.0), tint=(1.1, 0.99, 0.8), tint_strength=(0.5, 1.1),
            blur=(0.0026, 0.0046), noise=(2.0, 5.0), jpeg=(28, 60), lamps=(0.0, 0.05),
        ),
    ),
    skies=(((188, 182, 166), (226, 208, 174)), ((160, 172, 184), (224, 210, 182)), ((204, 190, 160), (228, 210, 176))),
    clouds=(0.0, 0.4),
    materials=("stone", "stucco", "plaster", "stucco"),
    facades=(
        (214, 190, 150), (200, 168, 126), (222, 206, 178), (188, 150, 120), (176, 170, 156), (150, 178, 170),
        (206, 150, 120), (226, 214, 160), (170, 140, 112),
    ),
    roofs=((170, 96, 70), (150, 110, 84), (132, 116, 100)),
    foliage=(((44, 52, 22), (134, 136, 70)), ((36, 54, 28), (110, 132, 72)), ((60, 54, 28), (158, 142, 84))),
    grass=((158, 140, 88), (144, 136, 80), (176, 152, 108)),
    asphalt=(98, 128),
    road_tone=(1.04, 1.0, 0.94),
    pavement=((196, 176, 148), (178, 164, 144), (202, 186, 160)),
    paints=(
        (222, 220, 212), (196, 190, 176), (120, 124, 126), (58, 58, 60), (168, 48, 38), (48, 84, 140),
        (216, 170, 44), (70, 128, 112), (150, 110, 70),
    ),
    clothes=(
        (222, 214, 196), (190, 64, 52), (58, 92, 132), (214, 150, 56), (84, 66, 58), (70, 128, 110),
        (236, 200, 120), (150, 70, 110), (60, 60, 66),
    ),
    rates=MappingProxyType(
        {"person": 1.4, "rider": 1.7, "two-wheeler": 1.5, "truck": 1.6, "tram": 0.6, "tree": 0.8, "lawn": 0.8}
    ),
)  # fmt: skip

DOMAINS: Mapping[str, Domain] = MappingProxyType(
    {domain.name: domain for domain in (SOURCE, DEVELOPMENT, HAZE, DUSK, DUST)}
)
