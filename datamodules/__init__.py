"""Files, or a generated world, to samples."""

from datamodules.folder import FolderDataModule
from datamodules.street_scenes import StreetScenesDataModule, StreetScenesProtocol
from datamodules.targets import TargetsDataModule

__all__ = ["FolderDataModule", "StreetScenesDataModule", "StreetScenesProtocol", "TargetsDataModule"]
