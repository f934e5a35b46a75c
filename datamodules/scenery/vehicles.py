"""How a vehicle is drawn: hulls swept across its width, with patches on their faces, and wheels."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from .camera import NEAR, Pose
from .canvas import Canvas, Surface, mix, rectangle, shade, upright
from .domains import Colour, TrainId
from .solids import Solid

TYRE: Colour = (26, 26, 28)
DARK: Colour = (34, 34, 38)
METAL: Colour = (150, 152, 156)
SKY_IN_GLASS: Colour = (150, 170, 190)
PAINTS: dict[str, Colour] = {
    "glass": (44, 54, 64), "dark": DARK, "metal": METAL, "plate": (232, 228, 200),
    "head": (238, 238, 226), "tail": (196, 28, 24), "display": (214, 150, 48),
}  # fmt: skip
LIT_PAINTS: dict[str, Colour] = {"head": (255, 252, 224), "tail": (255, 60, 44), "display": (255, 180, 60)}
CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 14)[:-1]), np.sin(np.linspace(0, 2 * np.pi, 14)[:-1])], axis=1)
SIDES = (-1.0, 1.0)
LEAST_DETAILED = 7.0  # pixels of height from which wheels, windows and lamps are drawn

Point = tuple[float, float]  # along, up
Detail = tuple[int, float, float, float, float, str]
Patch = tuple[str, np.ndarray]


@dataclass(frozen=True)
class Hull:
    """A side view swept across the width; lengths in metres, paints by their names."""

    # Points (along, up, paint of the face to the next), from the rear bumper over the roof to the front.
    profile: tuple[tuple[float, float, str], ...]
    width: float
    # Patches on faces: (face, left, right, low, high, paint), -1 to 1 across and 0 to 1 along the face. One that is not
    # in the middle is on both halves.
    details: tuple[Detail, ...] = ()
    patches: tuple[Patch, ...] = ()  # paint and corners (4, 2) as (along, up), on both sides
    flank: str = "body"  # paint of the sides
    belt: float = 1.0  # height above which the sides lean inwards
    lean: float = 0.0  # metres that each side leans in at the top

    @cached_property
    def points(self) -> np.ndarray:
        """The profile (N, 2) as (along, up)."""
        return np.array([point[:2] for point in self.profile])

    @cached_property
    def corners_of_patches(self) -> np.ndarray:
        """Corners (patches, 4, 2) as (along, up)."""
        return np.array([corners for _, corners in self.patches])

    @cached_property
    def details_of_faces(self) -> list[list[tuple[np.ndarray, np.ndarray, str]]]:
        """For each face, corners of its details as shares (4, 1) across and along the face, and paints."""
        faces: list[list[tuple[np.ndarray, np.ndarray, str]]] = [[] for _ in self.profile]
        for face, left, right, low, high, paint in self.details:
            for first, last in [(left, right)] if left == -right else [(left, right), (-right, -left)]:
                across = rectangle(first, last, low, high)[:, :1] * 0.5 + 0.5
                faces[face].append((across, rectangle(first, last, low, high)[:, 1:], paint))
        return faces

    def half_width(self, up: np.ndarray) -> np.ndarray:
        """Return metres from the middle to the side at some heights."""
        rise = max(self.points[:, 1].max() - self.belt, 0.1)
        return 0.5 * self.width - self.lean * np.clip((up - self.belt) / rise, 0.0, 1.0)


@dataclass(frozen=True)
class Model:
    """A kind of vehicle."""

    label: TrainId
    length: float
    height: float
    track: float  # width between the outsides of the wheels
    hulls: tuple[Hull, ...]  # from rear to front
    wheels: tuple[Point, ...]  # (along, radius)


@dataclass(frozen=True)
class Vehicle:
    """A vehicle on the ground; the place is its middle."""

    model: Model
    pose: Pose
    body: Colour
    second: Colour  # of the cargo box or of the livery's stripe
    accent: Colour  # of tarpaulins and lettering
    lit: bool  # whether its lights are on

    @property
    def solid(self) -> Solid:
        """What casts its shadow."""
        return Solid(self.pose.footprint(self.model.length, self.model.track), 0.0, 0.9 * self.model.height)

    @cached_property
    def paints(self) -> dict[str, Colour]:
        """Colours by their names."""
        own = {"body": self.body, "second": self.second, "accent": self.accent}
        return PAINTS | (LIT_PAINTS if self.lit else {}) | own

    def draw(self, canvas: Canvas) -> None:
        """Paint the underside, the tyres, the hulls with their details, and the wheels that can be seen."""
        model, pose = self.model, self.pose
        depths = self.solid.footprint[:, 1]
        if depths.max() < 1.2:
            return
        surface = upright(model.label, max(1.0, float(depths.min())))
        rear, front = 0.1, model.length - 0.1
        side = 0.48 * model.track * np.array([-1.0, 1.0, 1.0, -1.0])
        underside = self._place(np.array([rear, rear, front, front]), np.full(4, 0.16), side)
        canvas.fill(canvas.camera.project_polygon(underside), TYRE, None if model.wheels else surface)
        is_large = canvas.camera.scale(pose.z) * model.height > LEAST_DETAILED
        rims = self._project_wheels(canvas) if model.wheels and is_large else None
        if rims is not None:
            for rim in rims.reshape(-1, 2 * len(CIRCLE), 2).astype(np.float32):
                canvas.fill(cv2.convexHull(rim)[:, 0], TYRE, surface)
        for hull in model.hulls if np.cos(pose.heading) < 0 else model.hulls[::-1]:
            self._draw_hull(canvas, hull, surface, is_large)
        shown = self._find_shown_side(0.5 * model.track)
        if rims is not None and shown is not None:
            for rim in rims[:, shown, 0]:
                draw_wheel(canvas, rim, surface)

    def _place(self, along: np.ndarray, up: np.ndarray, side: np.ndarray) -> np.ndarray:
        """Turn the vehicle's own coordinates, metres from its rear, into world points (..., 3)."""
        return self.pose.place(along - 0.5 * self.model.length, up, side)

    def _find_shown_side(self, half: float) -> int | None:
        """Return which side, `half` metres from the middle, faces the camera: 0 for left, 1 for right, or None."""
        pose = self.pose
        for index, side in enumerate(SIDES):
            if side * np.cos(pose.heading) * pose.x + -side * np.sin(pose.heading) * pose.z + half < 0:
                return index
        return None

    def _draw_hull(self, canvas: Canvas, hull: Hull, surface: Surface, is_large: bool) -> None:
        """Paint the faces between the sides that can be seen, with their details, then a side."""
        along, up = hull.points.T
        half_width = hull.half_width(up)
        edges = np.stack([self._place(along, up, side * half_width) for side in SIDES])
        has_details = is_large and edges[..., 2].min() > NEAR
        faces = np.stack([edges[0, :-1], edges[0, 1:], edges[1, 1:], edges[1, :-1]], axis=1)
        quads = canvas.camera.project_polygons(faces)
        steps, rises = np.diff(along), np.diff(up)
        normals = np.stack([-rises * np.sin(self.pose.heading), steps, -rises * np.cos(self.pose.heading)], axis=1)
        normals /= np.maximum(np.hypot(steps, rises), 1e-6)[:, None]
        for face, normal in enumerate(normals):
            if normal @ (edges[0, face] - (0.0, canvas.camera.eye, 0.0)) >= 0:
                continue
            paint, quad = hull.profile[face][2], quads[face]
            colour = self.paints[paint]
            if paint == "glass":
                colour = mix(colour, SKY_IN_GLASS, 0.25 * float(normal[1]) + 0.08)
            canvas.fill(quad, shade(colour, canvas.light.on(*normal.tolist())), surface)
            for across, rise, detail_paint in hull.details_of_faces[face] if has_details else ():
                bottom, top = quad[0] + across * (quad[3] - quad[0]), quad[1] + across * (quad[2] - quad[1])
                canvas.fill(bottom + rise * (top - bottom), self.paints[detail_paint])
        shown = self._find_shown_side(0.5 * hull.width)
        if shown is not None:
            self._draw_flank(canvas, hull, SIDES[shown], edges[shown], surface, is_large)

    def _draw_flank(
        self, canvas: Canvas, hull: Hull, side: float, edge: np.ndarray, surface: Surface, is_large: bool
    ) -> None:
        """Paint a side, whose outline is `edge`, and what is on it."""
        camera, heading = canvas.camera, self.pose.heading
        brightness = canvas.light.on(side * np.cos(heading), 0.0, -side * np.sin(heading))
        canvas.fill(camera.project_polygon(edge), shade(self.paints[hull.flank], brightness), surface)
        if not is_large or not hull.patches or np.ptp(camera.project(edge)[:, 0]) < 4:
            return
        along, up = np.moveaxis(hull.corners_of_patches, -1, 0)
        world = self._place(along, up, side * hull.half_width(up))
        for outline, (paint, _) in zip(camera.project_polygons(world), hull.patches, strict=True):
            canvas.fill(outline, shade(self.paints[paint], brightness))

    def _project_wheels(self, canvas: Canvas) -> np.ndarray | None:
        """Return the rims in pixels (wheel, side, outer or inner, point, 2), or None if one is behind the camera."""
        track = self.model.track
        middle, radius = np.array(self.model.wheels).T[:, :, None, None, None]
        outer = 0.5 * track * np.array(SIDES)[None, :, None, None]
        side = outer * np.array([1.0, 1.0 - 0.48 / track])[None, None, :, None]
        along = middle + radius * CIRCLE[:, 0] + 0.0 * side
        world = self._place(along, radius * (1.0 + CIRCLE[:, 1]) + 0.0 * side, side)
        return canvas.camera.project(world) if world[..., 2].min() > NEAR else None


def draw_wheel(canvas: Canvas, rim: np.ndarray, surface: Surface) -> None:
    """Paint wheel arch, tyre, rim and hub, given the outline (N, 2) of the tyre in pixels."""
    low, high = rim.min(axis=0), rim.max(axis=0)
    if high[1] - low[1] < 3 or high[0] < 0 or low[0] > canvas.camera.width:
        return
    middle = 0.5 * (low + high)
    for share, colour in ((1.16, DARK), (1.0, TYRE), (0.62, METAL), (0.2, DARK)):
        canvas.fill(middle + share * (rim - middle), colour, surface if share == 1.0 else None)
