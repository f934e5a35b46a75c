"""Procedural street scenes with exact 19-class labels; needs numpy and OpenCV only."""

from .domains import DOMAINS, SPLITS
from .scene import SMALLEST, draw_scene

__all__ = ["DOMAINS", "SMALLEST", "SPLITS", "draw_scene"]
