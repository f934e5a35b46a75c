"""Definitions of the five domains: palettes, frequencies of objects, and the light and camera they are seen with."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum

Colour = tuple[float, ...]  # red, green, blue, 0 to 255
Range = tuple[float, float]

SPLITS = ("train", "val", "test")

TrainId = IntEnum(  # the 19 evaluated classes of Cityscapes
    "TrainId",
    "ROAD SIDEWALK BUILDING WALL FENCE POLE TRAFFIC_LIGHT TRAFFIC_SIGN VEGETATION TERRAIN SKY "
    "PERSON RIDER CAR TRUCK BUS TRAIN MOTORCYCLE BICYCLE",
    start=0,
)


def palette(codes: str) -> tuple[Colour, ...]:
    """Returns colours from their hexadecimal codes, such as "ffffff" for white."""
    return tuple(tuple(bytes.fromhex(code)) for code in codes.split())


def palettes(*codes: str) -> tuple[tuple[Colour, ...], ...]:
    """Returns one palette for each string of codes."""
    return tuple(map(palette, codes))


@dataclass(frozen=True)
class Look:
    """Light and camera: ranges from which each image draws its own values."""

    sun: Range = (0.35, 0.6)  # how much of the light a cast shadow takes away, 0 to 1
    haze: Range = (0.001, 0.003)  # extinction of the air, per metre
    air: Colour = (196, 212, 230)  # colour that distant objects fade into
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
    """One world: palettes, materials, frequencies, and the looks it is seen with; by default the source."""

    # One look is drawn per image.
    looks: tuple[Look, ...] = (
        Look(),
        Look(sun=(0.45, 0.65), exposure=(1.0, 1.1)),
        Look(sun=(0.15, 0.35), saturation=(0.95, 1.1)),
    )
    # Colour overhead, colour at the horizon.
    skies: tuple[tuple[Colour, ...], ...] = palettes("4682cd bed7f0", "6096d6 d0e0f0", "788cbe f0dec8", "8ca0b8 d6dce2")
    clouds: Range = (0.0, 0.8)  # share of the sky that clouds cover, 0 to 1
    materials: tuple[str, ...] = ("brick", "plaster", "concrete", "panels")  # of facades, see `textures.MATERIALS`
    facades: tuple[Colour, ...] = palette(
        "ac5c46 965442 c4b496 cec4b6 a09e9c 848a94 c49c68 b87c60 8c968c d6ceaa 786860 a8b0be"
    )
    roofs: tuple[Colour, ...] = palette("8e4234 703e32 54545c 605046")
    # Leaf in shade, leaf in light.
    foliage: tuple[tuple[Colour, ...], ...] = palettes("163414 689638", "10301a 4e843c", "283c12 8c9e3e")
    grass: tuple[Colour, ...] = palette("5c8a3a 709042 547a3c")  # lawns and verges
    asphalt: Range = (84, 112)  # grey level of the road
    road_tone: Colour = (1.0, 1.0, 1.04)  # colour of the road relative to grey
    pavement: tuple[Colour, ...] = palette("aca6a0 9c9a9a b8ac9c")  # sidewalks
    # Colours of cars.
    paints: tuple[Colour, ...] = palette("ceced2 24262c 80848a b02222 264894 e2e2de 966828 2e6a4c 5c1e28 deb234 4e5c70")
    clothes: tuple[Colour, ...] = palette("b22c30 2c4288 34363e e2ded4 d49e36 40765c 78528e 5c544e 1e222c ce7082")
    rates: Mapping[str, float] = field(default_factory=dict)  # factors on how often a kind of object is placed

    def rate(self, kind: str) -> float:
        """Returns the factor on the frequency of a kind of object, 1 if none is given."""
        return self.rates.get(kind, 1.0)


DEVELOPMENT_LOOK = Look(
    sun=(0.05, 0.3), haze=(0.002, 0.006), air=(192, 204, 204), exposure=(0.85, 1.1), gamma=(0.95, 1.25),
    contrast=(0.72, 0.92), saturation=(0.65, 0.95), tint=(0.86, 1.02, 0.98), tint_strength=(0.4, 1.2),
    blur=(0.0016, 0.0032), noise=(2.5, 6.0), lamps=(0.0, 0.1),
)  # fmt: skip

DEVELOPMENT = Domain(
    looks=(
        DEVELOPMENT_LOOK,
        replace(DEVELOPMENT_LOOK, haze=(0.008, 0.018), contrast=(0.75, 0.9)),
        replace(DEVELOPMENT_LOOK, exposure=(0.68, 0.86), gamma=(1.1, 1.3), noise=(3.0, 6.0), lamps=(0.1, 0.4)),
        replace(DEVELOPMENT_LOOK, tint=(1.12, 1.0, 0.82), haze=(0.003, 0.009), blur=(0.002, 0.004), jpeg=(45, 80)),
        replace(DEVELOPMENT_LOOK, exposure=(1.15, 1.35), contrast=(0.7, 0.85), tint_strength=(0.2, 0.8)),
    ),
    skies=palettes("a8b2bc ced2d4", "8c9eb4 cad2d6", "babebe d8d8d4"),
    clouds=(0.3, 1.0),
    materials=("plaster", "concrete", "panels", "brick", "stone"),
    facades=palette("b6ac98 966c5a b0b2b0 828486 c4b88c a09080 cac8c2 8c9698 aa7864"),
    roofs=palette("70463c 545254 645a54"),
    foliage=palettes("1a321a 5e803e", "22381e 74884c", "303618 8a8644"),
    grass=palette("627e42 78844e 587040"),
    asphalt=(78, 122),
    road_tone=(1.0, 1.0, 1.0),
)

HAZE = Domain(
    looks=(Look(
        sun=(0.0, 0.15), haze=(0.013, 0.026), air=(184, 208, 200), exposure=(0.9, 1.02), gamma=(1.0, 1.15),
        contrast=(0.78, 0.92), saturation=(0.7, 0.9), tint=(0.84, 1.02, 0.97), tint_strength=(0.3, 0.8),
        noise=(5.0, 9.0), lamps=(0.05, 0.3),
    ),),
    skies=palettes("b0c8c4 bcd0ca", "a8bec0 b8ceca"),
    clouds=(0.0, 0.4),
)  # fmt: skip

DUSK = Domain(
    looks=(Look(
        sun=(0.0, 0.12), haze=(0.003, 0.007), air=(120, 112, 150), exposure=(0.8, 0.98), gamma=(1.05, 1.22),
        contrast=(0.74, 0.9), saturation=(0.75, 0.95), tint=(0.92, 0.86, 1.14), tint_strength=(0.3, 0.8),
        noise=(3.0, 6.0), lamps=(0.25, 0.6),
    ),),
    skies=palettes("545488 be96a0", "606496 a896b0", "464c7c cea092"),
    clouds=(0.2, 0.9),
)  # fmt: skip

DUST = Domain(
    looks=(Look(
        sun=(0.15, 0.4), haze=(0.005, 0.012), air=(222, 200, 164), exposure=(0.92, 1.08), gamma=(0.95, 1.15),
        contrast=(0.78, 0.95), saturation=(0.75, 1.0), tint=(1.1, 0.99, 0.8), tint_strength=(0.5, 1.1),
        blur=(0.0026, 0.0046), noise=(2.0, 5.0), jpeg=(28, 60), lamps=(0.0, 0.05),
    ),),
    skies=palettes("bcb6a6 e2d0ae", "a0acb8 e0d2b6", "ccbea0 e4d2b0"),
    clouds=(0.0, 0.4),
    materials=("stone", "stucco", "plaster", "stucco"),
    facades=palette("d6be96 c8a87e deceb2 bc9678 b0aa9c 96b2aa ce9678 e2d6a0 aa8c70"),
    roofs=palette("aa6046 966e54 847464"),
    foliage=palettes("2c3416 868846", "24361c 6e8448", "3c361c 9e8e54"),
    grass=palette("9e8c58 908850 b0986c"),
    asphalt=(98, 128),
    road_tone=(1.04, 1.0, 0.94),
    pavement=palette("c4b094 b2a490 cabaa0"),
    paints=palette("dedcd4 c4beb0 787c7e 3a3a3c a83026 30548c d8aa2c 468070 966e46"),
    clothes=palette("ded6c4 be4034 3a5c84 d69638 54423a 46806e ecc878 96466e 3c3c42"),
    rates={"person": 1.4, "rider": 1.7, "two-wheeler": 1.5, "truck": 1.6, "tram": 0.6, "tree": 0.8, "lawn": 0.8},
)  # fmt: skip

DOMAINS = {"source": Domain(), "development": DEVELOPMENT, "haze": HAZE, "dusk": DUSK, "dust": DUST}
