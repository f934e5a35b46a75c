"""What stands on the ground: where, what shadow it casts, and in which order it is painted."""

from dataclasses import dataclass
from functools import partial
from typing import Protocol

import cv2
import numpy as np

from .camera import NEAR, Camera
from .canvas import SUBPIXEL_BITS, SUBPIXELS, Canvas
from .streets import Course

SHADOW_FAR = 60.0  # metres; shadows farther away are not drawn
OVERHANG = 0.8  # metres


@dataclass(frozen=True)
class Solid:
    """A rough shape: a footprint (N, 2) of world x, z that reaches from `bottom` to `top` metres."""

    footprint: np.ndarray
    bottom: float
    top: float


class Item(Protocol):
    """Something that stands in the scene."""

    @property
    def solid(self) -> Solid:
        """Where it stands and how high it is."""

    def draw(self, canvas: Canvas) -> None:
        """Paint it."""


def draw_shadows(canvas: Canvas, items: list[Item]) -> None:
    """Darken the ground where the sun is hidden, and softly below everything that stands on it."""
    camera, light = canvas.camera, canvas.light
    # Metres (x, z) that the shadow of a point moves per metre of its height.
    shift = np.array([-light.direction[0] / light.direction[1], -light.direction[2] / light.direction[1]])
    near = [solid for solid in (item.solid for item in items) if solid.footprint[0, 1] < SHADOW_FAR]
    casts = [np.concatenate([solid.footprint + shift * end for end in (solid.bottom, solid.top)]) for solid in near]
    contacts = [solid.footprint for solid in near if solid.bottom < 0.5 and solid.top < 5.0]
    cast = draw_footprints(camera, casts if light.sun > 0.05 else [])
    contact = draw_footprints(camera, contacts)
    top = min(camera.height - 1, max(0, round(camera.horizon)))
    contact = cv2.GaussianBlur(contact[top:], (0, 0), max(0.5, camera.height / 200))
    loss = np.maximum(cast[top:] * np.float32(light.sun / 255), contact * np.float32(0.5 / 255))
    canvas.multiply(top, 1.0 - np.minimum(loss, 0.75))


def draw_footprints(camera: Camera, footprints: list[np.ndarray]) -> np.ndarray:
    """Draw the hulls of ground points (N, 2), as world x, z, into a mask (H, W) uint8."""
    mask = np.zeros((camera.height, camera.width), np.uint8)
    if not footprints:
        return mask
    points = np.concatenate(footprints)
    world = np.stack([points[:, 0], np.zeros(len(points)), points[:, 1]], axis=1)
    pixels = (camera.project(world) * SUBPIXELS).astype(np.int32)
    stop = 0
    for footprint in footprints:
        start, stop = stop, stop + len(footprint)
        if footprint[:, 1].min() > NEAR:
            hull = cv2.convexHull(pixels[start:stop])
        else:
            order = cv2.convexHull(footprint.astype(np.float32), returnPoints=False)[:, 0]
            hull = (camera.project_polygon(world[start:stop][order]) * SUBPIXELS).astype(np.int32)
        if len(hull) >= 3:
            cv2.fillConvexPoly(mask, hull, 255, cv2.LINE_AA, SUBPIXEL_BITS)
    return mask


def order_back_to_front(items: list[Item], camera: Camera, course: Course) -> list[Item]:
    """Return the items that may be in view such that each comes after those it hides.

    Of two items, the one that is nearer in every point is in front; if their depths overlap, it is the one on the
    camera's side of a line along the street between them. Where no line parts them, the one that reaches less far is.
    Items on either side of the camera do not hide each other.
    """
    footprints = [item.solid.footprint for item in items]
    starts = np.cumsum([0, *(len(footprint) for footprint in footprints[:-1])])
    x, z = np.concatenate(footprints).T
    least, most = partial(np.minimum.reduceat, indices=starts), partial(np.maximum.reduceat, indices=starts)
    near, far = least(z), most(z)
    # Columns of the image, with a margin for what hangs over the footprint.
    start = least((x - OVERHANG) / np.maximum(z, NEAR)) * camera.focal + camera.centre
    stop = most((x + OVERHANG) / np.maximum(z, NEAR)) * camera.focal + camera.centre
    # The core of each item across the street: crowns may hang over what drives below.
    across = x - course.bow(z)
    left, right = least(across), most(across)
    core = 0.3 * (right - left)
    left, right = left + core, right - core
    visible = np.flatnonzero((stop > 0) & (start < camera.width) & (far > NEAR))
    left, near, right, far, start, stop = (values[visible] for values in (left, near, right, far, start, stop))

    is_nearer = far[:, None] <= near
    is_beside = ~(is_nearer | is_nearer.T)
    is_left, is_right = right[:, None] <= left, left[:, None] >= right
    is_inside = (is_left & (left >= 0) & (right > 0)[:, None]) | (is_right & (right <= 0) & (left < 0)[:, None])
    is_mixed = is_beside & ~is_left & ~is_right & (far[:, None] < far)
    meets = (start[:, None] < stop) & (stop[:, None] > start)
    in_front = meets & (is_nearer | is_beside & is_inside | is_mixed)

    # Of the items that wait for no other, the farthest is painted next.
    waits_for = in_front.sum(axis=1)
    rank = far.copy()
    order: list[Item] = []
    for _ in range(len(visible)):
        following = int(np.argmax(rank - 1e6 * (waits_for > 0)))
        waits_for -= in_front[:, following]
        rank[following] = -np.inf
        order.append(items[visible[following]])
    return order
