"""Files, or a generated world, to samples."""

from datamodules.street_scenes import StreetScenesDataModule, StreetScenesProtocol
from datamodules.targets import TargetsDataModule

__all__ = ["StreetScenesDataModule", "StreetScenesProtocol", "TargetsDataModule"]
