"""Writes small trees of files in the layouts of the data sets' vendors, seeded."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from scipy.io import savemat

Size = tuple[int, int]  # (height, width)


@dataclass(frozen=True)
class Vendor:
    """What a data set's tree holds here."""

    keys: Mapping[str, Sequence[str]]  # for each split what tells its images from each other, sorted
    ids: Sequence[int]  # every id that a label file may hold, void ones too
    usual_size: Size  # the real proportions, a fortieth of the length
    sizes: Mapping[str, Size] = field(default_factory=dict)  # of the other images

    def size(self, key: str) -> Size:
        return self.sizes.get(key, self.usual_size)

    def draw_image(self, key: str) -> np.ndarray:
        return draw_image(key, self.size(key))

    def draw_ids(self, key: str) -> np.ndarray:
        return draw_ids(key, self.ids, self.size(key))

    def pairs(self, *splits: str) -> Iterable[tuple[str, str]]:
        """Yields (split, key)."""
        return ((split, key) for split in splits for key in self.keys[split])


GTA = Vendor(
    {"train": ["00001", "00002", "00007", "24966"], "val": ["00003", "00005"], "test": ["00004", "00006", "00008"]},
    ids=range(35),
    usual_size=(26, 48),
    sizes={"00002": (25, 48), "00005": (25, 48)},
)
SYNTHIA = Vendor({"train": ["0000000", "0000001", "0000631", "0009399"]}, range(23), (20, 34))
WILDDASH_BETA = Vendor({"val": ["ar0000_100000", "cn0003_100000", "us0083_100000"]}, range(39), (27, 48))
WILDDASH_FINAL = Vendor(WILDDASH_BETA.keys, range(81), (27, 48))
CITYSCAPES = Vendor(
    keys={
        "train": ["aachen/aachen_000000_000019", "aachen/aachen_000001_000019", "zurich/zurich_000000_000019"],
        "val": [
            "frankfurt/frankfurt_000000_000294",
            "frankfurt/frankfurt_000001_000576",
            "lindau/lindau_000000_000019",
        ],
        "test": ["berlin/berlin_000000_000019", "munich/munich_000000_000019"],
    },
    ids=range(34),
    usual_size=(24, 48),
)
BDD = Vendor(
    keys={
        "train": ["0004a4c0-d4dff0ad", "00054602-3bf57337"],
        "val": ["7d128593-0ccfea4c", "7d15b18b-1e0d6e3f"],
        "test": ["ac517380-00000000", "ac6d4f42-00000000"],
    },
    ids=(*range(19), 255),
    usual_size=(18, 32),
)
BDD_UNPAIRED = ("80a9e37d-e4548ac1", "9342e334-33d167eb")  # in val of the old release: an image and a mask
IDD = Vendor(
    keys={
        "train": ["0/frame0029", "1/frame0029", "119/frame0450"],
        "val": ["10/frame0600", "2/frame0600"],
        "test": ["3/frame0000"],
    },
    ids=(*range(19), 255),
    usual_size=(36, 64),
    sizes={"1/frame0029": (24, 43), "2/frame0600": (24, 43)},
)
MAPILLARY = Vendor(
    keys={"train": ["--BRfPMbU_vfCHtqNzS8Dw", "00AGnPqyUzdmWbBvuYrr_Q"], "val": ["03G8WHFnNfiJR-457i0MWQ", "_a-1"]},
    ids=range(66),
    usual_size=(27, 48),
    sizes={"03G8WHFnNfiJR-457i0MWQ": (30, 40)},
)
MAPILLARY_V2_IDS = range(124)

# AutoNUE's labels in the order of their ids, with their csTrainId.
IDD_TRAIN_IDS = {
    **{"road": 0, "parking": 255, "drivable fallback": 255, "sidewalk": 1, "rail track": 255},
    **{"non-drivable fallback": 9, "person": 11, "animal": 255, "rider": 12, "motorcycle": 17, "bicycle": 18},
    **{"autorickshaw": 255, "car": 13, "truck": 14, "bus": 15, "caravan": 255, "trailer": 255, "train": 16},
    **{"vehicle fallback": 255, "curb": 255, "wall": 3, "fence": 4, "guard rail": 255, "billboard": 255},
    **{"traffic sign": 7, "traffic light": 6, "pole": 5, "polegroup": 255, "obs-str-bar-fallback": 255, "building": 2},
    **{"bridge": 255, "tunnel": 255, "vegetation": 8, "sky": 10, "fallback background": 255, "unlabeled": 255},
    **{"ego vehicle": 255, "rectification border": 255, "out of roi": 255, "license plate": 255},
}


def draw_ids(key: str, ids: Sequence[int], size: Size) -> np.ndarray:
    """Draws (H, W) uint8 ids in cells of 2x3 pixels; each of the ids is there."""
    height, width = size
    cells = np.arange(height)[:, None] // 2 * -(-width // 3) + np.arange(width)[None] // 3
    every = np.resize(np.array(ids, dtype=np.uint8), cells.max() + 1)
    return np.random.default_rng([*key.encode()]).permutation(every)[cells]


def draw_image(key: str, size: Size) -> np.ndarray:
    """Draws an (H, W, 3) uint8 image of noisy blocks."""
    height, width = size
    generator = np.random.default_rng([1, *key.encode()])
    rows, columns = np.arange(height)[:, None] * 4 // height, np.arange(width) * 6 // width
    blocks = generator.integers(0, 256, (4, 6, 3))[rows, columns]
    return (blocks + generator.integers(-20, 21, (height, width, 3))).clip(0, 255).astype(np.uint8)


def write_image(path: Path, pixels: np.ndarray, mode: str | None = None) -> None:
    """Writes an image; mode P gives it a palette of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    if mode == "P":
        picture = Image.frombytes("P", picture.size, pixels.tobytes())
        picture.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    picture.save(path)


def write_16_bit(path: Path, ids: np.ndarray) -> None:
    """Writes a 16-bit RGB PNG with the ids in red and numbers of instances, up to 399, in green."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.dstack([np.zeros_like(ids), number_instances(ids), ids]).astype(np.uint16))


def number_instances(ids: np.ndarray) -> np.ndarray:
    """Numbers (H, W) instances independently of the ids."""
    return np.arange(ids.size).reshape(ids.shape) * 400 // ids.size


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_beside(*paths: Path) -> None:
    """Writes what archives hold too and nobody reads: no image."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"?")


def truncate(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Changes the pixels of an image, or the ids of labels."""
    deep = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if deep.dtype == np.uint16:
        write_16_bit(path, change(deep[..., 2]))
        return
    with Image.open(path) as picture:
        pixels, mode = np.array(picture), picture.mode
    write_image(path, change(pixels), mode)


def shrink(path: Path) -> None:
    """Takes a row of pixels away."""
    if path.suffix == ".json":
        path.write_text(json.dumps({**json.loads(path.read_text()), "imgHeight": 7}))
    else:
        rewrite(path, lambda pixels: pixels[:-1])


def set_id(path: Path, number: int) -> None:
    """Gives the first pixel of labels another id."""
    rewrite(path, lambda ids: np.where(np.arange(ids.size).reshape(ids.shape) == 0, number, ids).astype(ids.dtype))


def write_gta(root: Path, rearranged: bool = False, broken: bool = False, dtype: type = np.uint16) -> Path:
    """Writes GTA5 as its twenty zips unpack, or as the authors rearranged it: the splits are folders.

    Of the broken pairs two are blank, and two have an image and labels of different sizes.
    """
    blank, different = ("15188", "17705"), ("20801", "20860")
    added = {"train": ["15188"], "val": ["20801"], "test": ["17705", "20860"]} if broken else {}
    keys = {split: [*keys, *added.get(split, ())] for split, keys in GTA.keys.items()}
    for folder, key in ((split if rearranged else "", key) for split in keys for key in keys[split]):
        image, ids = GTA.draw_image(key), GTA.draw_ids(key)
        if key in blank:
            image, ids = np.zeros((13, 24, 3), np.uint8), np.zeros((13, 24), np.uint8)
        write_image(root / "images" / folder / f"{key}.png", image[:-1] if key in different else image)
        write_image(root / "labels" / folder / f"{key}.png", ids, "P")
    if not rearranged:
        numbers = {f"{split}Ids": np.array([[int(key)] for key in keys[split]], dtype=dtype) for split in keys}
        savemat(root / "split.mat", numbers)
        write_beside(root / "mapping.mat", root / "images" / "._00001.png")  # which a Mac leaves behind
    return root


def write_synthia(root: Path, nested: bool = True) -> Path:
    """Writes SYNTHIA-RAND-CITYSCAPES as its archive unpacks, into a folder of its own or not."""
    base = root / "RAND_CITYSCAPES" if nested else root
    for _, key in SYNTHIA.pairs("train"):
        write_image(base / "RGB" / f"{key}.png", SYNTHIA.draw_image(key))
        write_16_bit(base / "GT" / "LABELS" / f"{key}.png", SYNTHIA.draw_ids(key))
        write_beside(base / "GT" / "COLOR" / f"{key}.png")
    return root


def write_wilddash(root: Path, final: bool = False, labels: bool = True, nested: bool = True) -> Path:
    """Writes WildDash 2: wd_public_v2p0 with 80 classes, which has panoptic labels too, or the beta, wd_public_02."""
    vendor = WILDDASH_FINAL if final else WILDDASH_BETA
    base = root / ("wd_public_v2p0" if final else "wd_public_02") if nested else root
    annotations = []
    for _, key in vendor.pairs("val"):
        ids = vendor.draw_ids(key)
        write_image(base / "images" / f"{key}.jpg", vendor.draw_image(key))
        if labels:
            write_image(base / "labels" / f"{key}.png", ids)
        if not final:
            write_beside(base / "instances" / f"{key}.png")
            continue
        segments = np.where(ids == 0, 0, ids.astype(np.int64) * 1000 + number_instances(ids) // 100)
        colours = np.stack([segments % 256, segments // 256 % 256, segments // 65536], axis=2).astype(np.uint8)
        write_image(base / "panoptic" / f"{key}.png", colours)
        info = [{"id": int(segment), "category_id": int(segment) // 1000} for segment in np.unique(segments) if segment]
        annotations.append({"file_name": f"{key}.png", "segments_info": info})
    write_json(base / "panoptic.json", {"annotations": annotations})
    write_beside(base / "wilddash2-meta.json")
    return root


def write_cityscapes(root: Path) -> Path:
    """Writes Cityscapes as leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip unpack.

    The labels of test hold nothing but the ego vehicle and what lies outside the image.
    """
    for split, key in CITYSCAPES.pairs("train", "val", "test"):
        labels = root / "gtFine" / split / f"{key}_gtFine"
        ids = draw_ids(key, range(4), CITYSCAPES.size(key)) if split == "test" else CITYSCAPES.draw_ids(key)
        write_image(root / "leftImg8bit" / split / f"{key}_leftImg8bit.png", CITYSCAPES.draw_image(key))
        write_image(labels.with_name(f"{labels.name}_labelIds.png"), ids)
        others = ("color.png", "instanceIds.png", "polygons.json")
        write_beside(*(labels.with_name(f"{labels.name}_{other}") for other in others))
    return root


def write_bdd(root: Path, nested: bool = True) -> Path:
    """Writes BDD100K's 10k images and masks as their zips unpack, with or without the folder bdd100k."""
    base = root / "bdd100k" if nested else root
    labels = base / "labels" / "sem_seg"
    for split, key in BDD.pairs("train", "val", "test"):
        write_image(base / "images" / "10k" / split / f"{key}.jpg", BDD.draw_image(key))
        if split != "test":
            write_image(labels / "masks" / split / f"{key}.png", BDD.draw_ids(key))
            write_beside(labels / "colormaps" / split / f"{key}.png", labels / "polygons" / f"sem_seg_{split}.json")
    return root


def write_old_bdd(root: Path, unpaired: bool = False) -> Path:
    """Writes BDD100K's former release, with or without the image and the mask of val that have no partner."""
    base = root / "bdd100k" / "seg"
    image, mask = BDD_UNPAIRED
    for split, key in [*BDD.pairs("train", "val", "test"), *([("val", image), ("val", mask)] if unpaired else [])]:
        if key != mask:
            write_image(base / "images" / split / f"{key}.jpg", BDD.draw_image(key))
        if split != "test" and key != image:
            write_image(base / "labels" / split / f"{key}_train_id.png", BDD.draw_ids(key))
            write_beside(base / "color_labels" / split / f"{key}_train_color.png")
    return root


def draw_idd(key: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Draws (H, W) csTrainIds with a rectangle for each label of IDD, and the annotation that says the same."""
    height, width = IDD.size(key)
    mask = np.full((height, width), 255, np.uint8)
    objects = []
    for number, label in enumerate(np.random.default_rng([2, *key.encode()]).permutation(list(IDD_TRAIN_IDS))):
        left, top = number % 8 * (width // 8), number // 8 * (height // 5)
        right, bottom = left + width // 8 - 1, top + height // 5 - 1
        mask[top : bottom + 1, left : right + 1] = IDD_TRAIN_IDS[label]
        corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
        objects.append({"label": str(label), "polygon": corners, "deleted": 0})
    return mask, {"imgHeight": height, "imgWidth": width, "objects": objects}


def write_idd(root: Path, polygons: bool = True, masks: bool = False, part: int = 1, nested: bool = True) -> Path:
    """Writes IDD: the vendor's polygons, or masks as of AutoNUE's createLabels; part 1 has PNG images, 2 JPEG."""
    base = root / ("IDD_Segmentation" if part == 1 else "idd20kII") if nested else root
    suffix = "png" if part == 1 else "jpg"
    for split, key in IDD.pairs("train", "val", "test"):
        write_image(base / "leftImg8bit" / split / f"{key}_leftImg8bit.{suffix}", IDD.draw_image(key))
        mask, annotation = draw_idd(key)
        labels = base / "gtFine" / split / f"{key}_gtFine"
        if polygons and split != "test":
            write_json(labels.with_name(f"{labels.name}_polygons.json"), annotation)
        if masks and split != "test":
            write_image(labels.with_name(f"{labels.name}_labelcsTrainIds.png"), mask)
            flat = f"{key.replace('/', '_')}_gtFine_panopticlevel3Ids.png"
            panoptic = base / "gtFine" / f"{split}_panoptic" / flat
            write_beside(labels.with_name(f"{labels.name}_labellevel3Ids.png"), panoptic)
    return root


def write_mapillary(root: Path, releases: Sequence[str] = ("v1.2", "v2.0")) -> Path:
    """Writes Mapillary Vistas with these label sets; ``""`` is the former archives' v1.2 without a folder."""
    for split, key in MAPILLARY.pairs("train", "val"):
        folder = root / {"train": "training", "val": "validation"}[split]
        write_image(folder / "images" / f"{key}.jpg", MAPILLARY.draw_image(key))
        for release in releases:
            ids = MAPILLARY_V2_IDS if release == "v2.0" else MAPILLARY.ids
            labels = draw_ids(key, ids, MAPILLARY.size(key))
            write_image(folder / release / "labels" / f"{key}.png", labels, "P" if release else None)
            write_beside(folder / release / "instances" / f"{key}.png")
    write_image(root / "testing" / "images" / "test.jpg", draw_image("test", MAPILLARY.usual_size))
    write_beside(*(root / (f"config_{release}.json" if release else "config.json") for release in releases))
    return root


def write_vendors(root: Path) -> Path:
    """Writes all seven data sets below one folder, each in one of its layouts."""
    for write in (write_gta, write_synthia, write_wilddash, write_cityscapes, write_bdd, write_idd, write_mapillary):
        write(root / write.__name__.removeprefix("write_"))
    return root
