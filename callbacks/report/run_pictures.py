"""What a run draws while its images pass by: panels of the first images, and the gallery of its report."""

import io
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from pytorch_lightning import Trainer
from torch import Tensor

from callbacks.report.gallery import Gallery
from callbacks.report.panels import draw_panel
from callbacks.report.summary import gain_of_image
from callbacks.run.folder import PANELS, RunFolder
from callbacks.run.records import shorten_name, write_file


class RunPictures:
    """Draws `panels/DOMAIN/NAME.png` and keeps the gallery.

    Args:
        folder: Of the run.
        trainer: Of the run: its processes share the panels.
        panels: How many images per domain and process get a panel, and how many of the first are in the gallery.
        gallery: Whether there is a gallery.
        palette: (256, 3) uint8 RGB.
    """

    def __init__(
        self,
        folder: RunFolder,
        trainer: Trainer,
        panels: int,
        gallery: bool,
        palette: np.ndarray,
    ) -> None:
        self._root = folder.root
        self._palette = palette
        self._panels = panels
        self._drawn = folder.count_panels()
        self._trainer = trainer
        self._left: dict[str, int] = {}
        self._gallery = Gallery(folder.root, panels) if gallery else None

    def draw(
        self, image: Tensor, truth: Tensor, baseline: Tensor | None, prediction: Tensor, record: Mapping[str, Any]
    ) -> None:
        """Draws an image, where it is among those to be drawn.

        Args:
            image: (3, H, W) float, normalised.
            truth: (H', W') int64 train ids, 255 where ignored.
            baseline: (K, h, w) probabilities of the unadapted network, or None if it was not scored.
            prediction: (K, h, w) probabilities.
            record: Of the image.
        """
        domain, name, gain = record["domain"], record["name"], gain_of_image(record)
        if self._gallery is not None and self._gallery.wants(domain, name, gain):
            self._gallery.add(domain, name, gain, image, truth, baseline, prediction, self._palette)
        if self._count_left(domain) <= 0:
            return
        self._left[domain] -= 1
        shown = [prediction] if baseline is None else [baseline, prediction]
        file = io.BytesIO()
        draw_panel(image, truth, shown, self._palette).save(file, "PNG")
        write_file(self._root / PANELS / domain / f"{shorten_name(name)}.png", file.getvalue())

    def trim(self, records: Iterable[Mapping[str, Any]]) -> bool:
        """Leaves the pictures that the report shows; returns whether there is a gallery."""
        if self._gallery is None:
            return False
        self._gallery.trim({(record["domain"], record["name"]): gain_of_image(record) for record in records})
        return True

    def _count_left(self, domain: str) -> int:
        """Returns how many panels of a domain this process may still draw."""
        if domain not in self._left:
            processes, rank = self._trainer.world_size, self._trainer.global_rank
            left = max(0, self._panels * processes - self._drawn.get(domain, 0))
            self._left[domain] = (left + processes - 1 - rank) // processes
        return self._left[domain]
