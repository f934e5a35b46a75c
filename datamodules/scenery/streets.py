"""What kinds of street there are, as facts for the layout."""

from dataclasses import dataclass

from .domains import Range

LANE = 3.2  # metres
PARKING = 2.3  # metres
TRACK = 3.6  # metres


@dataclass(frozen=True)
class StreetKind:
    """Facts of one kind of street; lengths in metres, chances 0 to 1.

    Attributes:
        weight: How often it is drawn.
        lanes: Choices for the lanes per direction.
        sidewalk: Range of the sidewalk's width.
        verge: Chance of a grass strip between kerb and sidewalk.
        setback: Range of the distance from the sidewalk to the buildings.
        heights: Range of the buildings' heights.
        lengths: Range of the buildings' lengths along the street.
        lot: Chance of an open lot instead of a building.
        houses: Chance of a pitched roof.
        lawn: Chance that open ground beside the sidewalk is grass.
        barriers: Weights of what stands at the edge of a lot or front garden.
        tree_gap: Range of the distance between trees.
        trees: Chance of a row of trees on a side.
        parking: Chance of parked cars on a side.
        track: Chance of a tram track beside the road.
        crossing: Chance of a crossing street.
        open_end: Chance that no building closes the view.
    """

    weight: float
    lanes: tuple[int, ...]
    sidewalk: Range
    verge: float
    setback: Range
    heights: Range
    lengths: Range
    lot: float
    houses: float
    lawn: float
    barriers: dict[str, float]
    tree_gap: Range
    trees: float
    parking: float
    track: float
    crossing: float
    open_end: float


STREET_KINDS = {
    "canyon": StreetKind(
        weight=0.32, lanes=(1, 1, 2), sidewalk=(2.4, 4.0), verge=0.1, setback=(0.0, 0.0), heights=(9, 24),
        lengths=(9, 20), lot=0.16, houses=0.1, lawn=0.3, barriers={"wall": 0.5, "fence": 0.4, "hedge": 0.1},
        tree_gap=(9, 20), trees=0.45, parking=0.6, track=0.12, crossing=0.5, open_end=0.5,
    ),
    "boulevard": StreetKind(
        weight=0.22, lanes=(1, 2, 2), sidewalk=(3.0, 5.0), verge=0.6, setback=(0.0, 4.0), heights=(10, 26),
        lengths=(12, 26), lot=0.2, houses=0.05, lawn=0.6, barriers={"wall": 0.3, "fence": 0.4, "hedge": 0.3},
        tree_gap=(7, 14), trees=0.8, parking=0.35, track=0.5, crossing=0.55, open_end=0.6,
    ),
    "suburb": StreetKind(
        weight=0.26, lanes=(1,), sidewalk=(1.6, 2.6), verge=0.5, setback=(3.5, 8.0), heights=(4.5, 8),
        lengths=(9, 14), lot=0.45, houses=0.9, lawn=0.9, barriers={"wall": 0.28, "fence": 0.4, "hedge": 0.32},
        tree_gap=(8, 22), trees=0.6, parking=0.5, track=0.05, crossing=0.3, open_end=0.7,
    ),
    "outskirts": StreetKind(
        weight=0.2, lanes=(1, 2), sidewalk=(1.6, 3.0), verge=0.6, setback=(5.0, 14.0), heights=(5, 12),
        lengths=(16, 34), lot=0.6, houses=0.15, lawn=0.8, barriers={"wall": 0.4, "fence": 0.5, "hedge": 0.1},
        tree_gap=(10, 30), trees=0.5, parking=0.2, track=0.25, crossing=0.35, open_end=0.8,
    ),
}  # fmt: skip
