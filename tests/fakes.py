"""Small stand-ins for the real things, seeded, so that tests are quick and repeat."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from datamodules.base import SegmentationDataModule, SegmentationDataset, Split
from datamodules.labels import TRAIN_IDS, LabelSpace
from datamodules.transforms import Transform


class NormAct2d(nn.BatchNorm2d):
    """A BatchNorm2d with an activation behind the normalisation, as timm's BatchNormAct2d."""

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.act = nn.LeakyReLU(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


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
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.stem_norm = nn.Identity() if norm is None else norm(8)
        self.layer3 = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Identity() if norm is None else norm(8))
        last = self.layer3[1] if shared else nn.Identity() if norm is None else norm(8)
        self.layer4 = nn.Sequential(nn.Conv2d(8, 8, 3, padding=2, dilation=2), last)
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


def make_images(count: int = 2, height: int = 32, width: int = 48, seed: int = 0) -> Tensor:
    """Draws normalised images of whole grey levels: smooth colours, no two alike."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 6, generator=generator)
    levels = F.interpolate(coarse, (height, width), mode="bilinear").mul(255).round() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (levels - mean[:, None, None]) / std[:, None, None]


class Snapshot:
    """Everything about a network that a method has to leave as it was."""

    def __init__(self, network: nn.Module) -> None:
        self.tensors = {name: tensor.detach().clone() for name, tensor in self._tensors(network).items()}
        self.identities = {name: (id(tensor), tensor.data_ptr()) for name, tensor in self._tensors(network).items()}
        self.versions = {name: parameter._version for name, parameter in network.named_parameters()}
        self.modules = self._modules(network)
        self.alphas = self._alphas(network)

    @staticmethod
    def _tensors(network: nn.Module) -> dict[str, Tensor]:
        named = (*network.named_parameters(remove_duplicate=False), *network.named_buffers(remove_duplicate=False))
        return dict(named)

    @staticmethod
    def _modules(network: nn.Module) -> list[tuple[str, int, str, bool, int]]:
        return [
            (name, id(module), type(module).__name__, module.training, len(module._forward_hooks))
            for name, module in network.named_modules(remove_duplicate=False)
        ]

    @staticmethod
    def _alphas(network: nn.Module) -> dict[str, Any]:
        return {name: module.alpha for name, module in network.named_modules() if hasattr(module, "alpha")}

    def check(self, network: nn.Module) -> None:
        """Asserts that nothing changed, to the bit."""
        tensors = self._tensors(network)
        assert tensors.keys() == self.tensors.keys()
        for name, tensor in tensors.items():
            saved = self.tensors[name]
            assert tensor.dtype == saved.dtype and tensor.shape == saved.shape, name
            assert torch.equal(tensor.detach().nan_to_num(7.0), saved.nan_to_num(7.0)), f"{name} changed"
            assert (id(tensor), tensor.data_ptr()) == self.identities[name], f"{name} is another tensor"
        assert self._modules(network) == self.modules
        assert self._alphas(network) == self.alphas
        for name, parameter in network.named_parameters():
            assert parameter.grad is None, f"{name} has a gradient"
            assert parameter._version == self.versions[name], f"{name} was written"


class FakeDataset(SegmentationDataset):
    """Coloured rectangles with a class each; drawn from (domain, index)."""

    def __init__(
        self,
        domain: str,
        length: int,
        size: tuple[int, int],
        labels: LabelSpace,
        transform: Transform,
        seed: int = 0,
        labelled: bool = True,
    ) -> None:
        super().__init__(domain, labels.table(TRAIN_IDS), transform, seed, labelled)
        self.length = length
        self.size = size

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
        self, domain: str = "blocks", length: int = 5, size: tuple[int, int] = (24, 36), **kwargs: Any
    ) -> None:
        super().__init__(**{"num_workers": 0, "batch_size": 2, "crop_size": (16, 16), **kwargs})
        self.domain = domain
        self.length = length
        self.size = size

    def make_dataset(self, split: Split, transform: Transform, labelled: bool = True) -> FakeDataset:
        return FakeDataset(self.domain, self.length, self.size, self.labels, transform, self.seed, labelled)


def make_trainer(folder: Any, **kwargs: Any) -> Trainer:
    """Makes a silent trainer on one CPU."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    quiet |= {"devices": 1, "default_root_dir": str(folder), "enable_model_summary": False}
    return Trainer(**{**quiet, "use_distributed_sampler": False, **kwargs})
