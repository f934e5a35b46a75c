"""Small stand-ins for the real things, seeded, so that tests are quick and repeat."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from datamodules.base import SegmentationDataModule, SegmentationDataset, Split
from datamodules.labels import TRAIN_IDS
from datamodules.transforms import Transform
from lightning_modules.networks import DeepLabV1


class NormAct2d(nn.BatchNorm2d):
    """A BatchNorm2d with an activation behind the normalisation, as timm's BatchNormAct2d, and an alpha of its own."""

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.act, self.alpha = nn.ReLU(), 0.1

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return torch.lerp(self.act(x), x, self.alpha)


class TinyNetwork(nn.Module):
    """(B, 3, H, W) -> (B, K, H, W) or, without upsampling, (B, K, ceil(H / 2), ceil(W / 2)); about 2,000 weights."""

    def __init__(
        self,
        num_classes: int = 5,
        norm: type[nn.Module] | None = nn.BatchNorm2d,
        dropout: float = 0.0,
        upsample: bool = True,
        shared: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        norms = [nn.Identity() if norm is None else norm(8) for _ in range(2 if shared else 3)]
        self.stem, self.stem_norm = nn.Conv2d(3, 8, 3, stride=2, padding=1), norms[0]
        self.layer3 = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), norms[1])
        self.layer4 = nn.Sequential(nn.Conv2d(8, 8, 3, padding=2, dilation=2), norms[-1])
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Conv2d(8, num_classes, 1)
        self.upsample = upsample
        randomize(self, seed)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.stem_norm(self.stem(image)))
        x = F.relu(self.layer4(F.relu(self.layer3(x))))
        logits = self.head(self.dropout(x))
        return F.interpolate(logits, size=image.shape[-2:], mode="bilinear") if self.upsample else logits


def randomize(network: nn.Module, seed: int = 0) -> None:
    """Draws weights, BatchNorm affines and running statistics, and sets evaluation mode."""
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor: Tensor, low: float, high: float) -> None:
        tensor.data.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            bound = 1.5 * (module.weight[0].numel()) ** -0.5
            draw(module.weight, -bound, bound)
            if module.bias is not None:
                draw(module.bias, -0.5, 0.5)
        elif isinstance(module, _BatchNorm):
            draw(module.weight, 0.5, 1.5)
            draw(module.bias, -0.5, 0.5)
            draw(module.running_mean, -0.3, 0.3)
            draw(module.running_var, 0.3, 1.5)
    network.eval()


def make_deeplab(**kwargs: Any) -> nn.Module:
    """Makes a small network with a frozen part and a head."""
    torch.manual_seed(0)
    network = DeepLabV1("resnet10", 5, width=8, **kwargs)
    randomize(network)
    return network


def make_images(count: int = 2, height: int = 32, width: int = 48, seed: int = 0) -> Tensor:
    """Draws normalised images of whole grey levels: smooth colours, no two alike."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 6, generator=generator)
    levels = F.interpolate(coarse, (height, width), mode="bilinear").mul(255).round() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (levels - mean[:, None, None]) / std[:, None, None]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Snapshot:
    """Everything about a network that a method has to leave as it was."""

    def __init__(self, network: nn.Module) -> None:
        self.values = {name: tensor.detach().clone() for name, tensor in list_tensors(network)}
        self.identities = identify(network)

    def check(self, network: nn.Module) -> None:
        """Asserts that nothing changed, to the bit."""
        assert identify(network) == self.identities
        for name, tensor in list_tensors(network):
            assert torch.equal(tensor.detach().nan_to_num(7.0), self.values[name].nan_to_num(7.0)), f"{name} changed"
            assert tensor.grad is None, f"{name} has a gradient"


def list_tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from network.named_parameters(remove_duplicate=False)
    yield from network.named_buffers(remove_duplicate=False)


def identify(network: nn.Module) -> list[tuple[Any, ...]]:
    """Lists the tensors and modules with what belongs to them."""
    found: list[tuple[Any, ...]] = []
    for name, tensor in list_tensors(network):
        found.append((name, id(tensor), tensor.data_ptr(), tensor.dtype, tensor.requires_grad))
    for name, module in network.named_modules(remove_duplicate=False):
        hooks, alpha = len(module._forward_hooks), getattr(module, "alpha", None)
        found.append((name, id(module), type(module), module.training, hooks, alpha))
    return found


@contextmanager
def unchanged(network: nn.Module) -> Iterator[None]:
    """Asserts that a block leaves a network as it was."""
    before = Snapshot(network)
    yield
    before.check(network)


class FakeDataset(SegmentationDataset):
    """Coloured rectangles with a class each, drawn from (domain, index); the image of one index may hold NaN."""

    def __init__(self, data: "FakeDataModule", transform: Transform, labelled: bool) -> None:
        super().__init__(data.domain, data.labels.table(TRAIN_IDS), transform, data.seed, labelled)
        self.length, self.size, self.spoilt = data.length, data.size, data.spoilt

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        item = super().__getitem__(key)
        if key == self.spoilt:
            item["image"][0, 0, 0] = float("nan")
        return item

    def __len__(self) -> int:
        return self.length

    def name(self, index: int) -> str:
        return f"{self.domain}_{index}"

    def load_image(self, index: int) -> np.ndarray:
        return self._draw(index)[0]

    def load_ids(self, index: int) -> np.ndarray:
        return self._draw(index)[1]

    def _draw(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.default_rng([index, *self.domain.encode()])
        height, width = self.size
        rows = np.arange(height)[:, None] * 2 // height
        columns = np.arange(width)[None] * 3 // width
        train_ids = generator.permutation(19)[:6].astype(np.uint8)[rows * 3 + columns]
        train_ids[0, :3] = 255
        colours = np.random.default_rng(7).integers(0, 256, (256, 3))
        noise = generator.integers(-20, 21, (height, width, 3))
        return (colours[train_ids] + noise).clip(0, 255).astype(np.uint8), train_ids


class FakeDataModule(SegmentationDataModule):
    """A domain of `FakeDataset`."""

    def __init__(
        self,
        domain: str = "blocks",
        length: int = 5,
        size: tuple[int, int] = (24, 36),
        spoilt: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"num_workers": 0, "batch_size": 2, "crop_size": (16, 16), **kwargs})
        self.domain, self.length, self.size, self.spoilt = domain, length, size, spoilt

    def make_dataset(self, split: Split, transform: Transform, labelled: bool = True) -> FakeDataset:
        return FakeDataset(self, transform, labelled)


class Unlabelled(FakeDataModule):
    """All its pixels are ignored."""

    def make_dataset(self, split: Split, transform: Transform, labelled: bool = True) -> FakeDataset:
        return super().make_dataset(split, lambda pixels, mask, seed: transform(pixels, mask * 0 + 255, seed), labelled)


def make_trainer(folder: Any, **kwargs: Any) -> Trainer:
    """Makes a silent trainer on one CPU."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    quiet |= {"devices": 1, "default_root_dir": str(folder), "enable_model_summary": False}
    return Trainer(**{**quiet, "use_distributed_sampler": False, **kwargs})
