"""Data modules that read files or generate street scenes."""

from datamodules.bdd import BDDDataModule
from datamodules.cityscapes import CityscapesDataModule
from datamodules.folder import FolderDataModule
from datamodules.gta import GTADataModule
from datamodules.idd import IDDDataModule
from datamodules.mapillary import MapillaryDataModule
from datamodules.street_scenes import StreetScenesDataModule, StreetScenesProtocol
from datamodules.synthia import SYNTHIADataModule
from datamodules.targets import TargetsDataModule
from datamodules.wilddash import WildDashDataModule

__all__ = [
    "BDDDataModule",
    "CityscapesDataModule",
    "FolderDataModule",
    "GTADataModule",
    "IDDDataModule",
    "MapillaryDataModule",
    "SYNTHIADataModule",
    "StreetScenesDataModule",
    "StreetScenesProtocol",
    "TargetsDataModule",
    "WildDashDataModule",
]
