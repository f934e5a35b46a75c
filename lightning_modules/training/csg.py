"""CSG (Chen et al., 2021): contrasts patches of the trained network with those of a frozen ImageNet network."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.processes import gather_from_processes
from lightning_modules.semantics import Semantics, check_semantics
from lightning_modules.training.features import count_channels, name_stages
from lightning_modules.training.method import Step, TrainingMethod, check_least
from lightning_modules.training.photometric import PhotometricChange
from lightning_modules.training.teacher import describe, freeze

DIMENSIONS = 128


class CSG(TrainingMethod):
    """Adds a contrastive loss on the last two stages: each trained patch has to match its own frozen features.

    Queries are the trained features of the images, keys the frozen features of a photometrically changed copy. Both are
    pooled over chunks of the map, weighted by the attention of the queries, projected, and normalised.

    Args:
        weight: Weight of the loss of each stage.
        chunks: Number of rows, and of columns, into which a map is divided.
        temperature: Divides the similarities.
        queue: Number of keys from earlier batches that serve as negatives.
        frozen_norms: Whether the backbone keeps its ImageNet BatchNorm statistics in training, as in the authors' code.
        semantics: ``paper`` trains the projections of the queries; ``released`` keeps their random initial values, as
            the authors' code does.

    Raises:
        ValueError: If an argument is outside its range.

    Source: Chen et al. (2021), Sec. 3.2-3.4: weight 75, 8 chunks, temperature 0.07, queue 65,536.
    """

    _held: tuple[nn.Module]  # the teacher

    def __init__(
        self,
        weight: float = 75.0,
        chunks: int = 8,
        temperature: float = 0.07,
        queue: int = 65536,
        frozen_norms: bool = True,
        semantics: Semantics = "paper",
    ) -> None:
        super().__init__()
        check_least(0, weight=weight)
        check_least(1, chunks=chunks, queue=queue)
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature}: expected a number above 0")
        check_semantics(semantics)
        self.weight = weight
        self.chunks = chunks
        self.temperature = temperature
        self.queue = queue
        self.frozen_norms = frozen_norms
        self.semantics = semantics
        self._change = PhotometricChange(0.4, 0.4, 0.4, 0.4)

    def prepare(self, network: nn.Module, num_classes: int) -> None:
        """Copies the network as the teacher; makes projections and queues."""
        self.features = name_stages(network)[-2:]
        self._held = (freeze(network),)
        generator = torch.Generator().manual_seed(0)
        for number, name in enumerate(self.features):
            channels = count_channels(network, name)
            query = make_projection(channels)
            query.requires_grad_(self.semantics == "paper")
            key = make_projection(channels).requires_grad_(False)
            key.load_state_dict(query.state_dict())
            self.add_module(f"query{number}", query)
            self.add_module(f"key{number}", key)
            keys = torch.randn(self.queue, DIMENSIONS, generator=generator)
            self.register_buffer(f"queue{number}", F.normalize(keys, dim=1))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    def compute_losses(self, step: Step) -> dict[str, Tensor]:
        """Returns the contrastive loss of each stage; adds the keys of all processes to the queues."""
        changed = self.normalization.apply(self._change(self.restore(step.images)))
        frozen = describe(self._held[0], self.features, changed)
        losses = {}
        with torch.autocast(step.images.device.type, enabled=False):
            for number, name in enumerate(self.features):
                features, queue = step.features[name].float(), self.get_buffer(f"queue{number}")
                attention = compute_attention(features)
                queries = self._project(f"query{number}", pool_chunks(features, attention, self.chunks))
                keys = self._project(f"key{number}", pool_chunks(frozen[name].float(), attention, self.chunks)).detach()
                losses[f"contrast{number + 3}"] = self.weight * contrast(queries, keys, queue.clone(), self.temperature)
                moved = self._enqueue(queue, keys)
            self.get_buffer("position").copy_(moved)
        return losses

    def _project(self, name: str, pooled: Tensor) -> Tensor:
        return F.normalize(self.get_submodule(name)(pooled), dim=1)

    @torch.no_grad()
    def _enqueue(self, queue: Tensor, keys: Tensor) -> Tensor:
        """Replaces the oldest keys of a queue; returns the position of the next ones."""
        found = gather_from_processes(keys)[-len(queue) :]
        start = self.get_buffer("position")
        places = (start + torch.arange(len(found), device=queue.device)) % len(queue)
        queue[places] = found
        return (start + len(found)) % len(queue)


def make_projection(channels: int) -> nn.Sequential:
    """Makes the projection of (N, C) pooled features to (N, 128)."""
    return nn.Sequential(nn.Linear(channels, channels), nn.ReLU(inplace=True), nn.Linear(channels, DIMENSIONS))


def compute_attention(features: Tensor) -> Tensor:
    """Computes (B, 1, H, W) weights of 0 or more: the similarity of each position's features to the image's mean.

    Source: Chen et al. (2021), Eq. 4.
    """
    features = features.detach()
    return (features * features.mean(dim=(2, 3), keepdim=True)).sum(dim=1, keepdim=True).clamp_min(0)


def pool_chunks(features: Tensor, attention: Tensor, chunks: int) -> Tensor:
    """Averages (B, C, H, W) features over chunks of a map, weighted by (B, 1, H, W) attention.

    There are `chunks` rows and columns, or as many as the map has. Returns (B * rows * columns, C).
    """
    rows, columns = min(chunks, features.shape[2]), min(chunks, features.shape[3])
    weights = attention + 1e-6  # a chunk without attention is averaged evenly
    total = F.adaptive_avg_pool2d(features * weights, (rows, columns))
    pooled = total / F.adaptive_avg_pool2d(weights, (rows, columns))
    return pooled.flatten(2).transpose(1, 2).reshape(-1, features.shape[1])


def contrast(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Computes the () mean InfoNCE loss: the cross-entropy of telling a query's own key from those of the queue.

    Queries and their own keys are (N, D), the queue of negative keys is (Q, D), all normalised.

    Source: Chen et al. (2021), Eq. 1.
    """
    own = (queries * keys).sum(dim=1, keepdim=True)
    logits = torch.cat([own, queries @ queue.T], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))
