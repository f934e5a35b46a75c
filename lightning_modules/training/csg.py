"""CSG (Chen et al., 2021): contrasts patches of the trained network with those of a frozen ImageNet network."""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.processes import gather_from_processes
from lightning_modules.semantics import Semantics, check_semantics
from lightning_modules.training.contrast import compute_attention, contrast, pool_chunks
from lightning_modules.training.method import Step, TrainingMethod, check_least
from lightning_modules.training.photometric import PhotometricChange
from lightning_modules.training.teacher import Teacher, count_channels, frozen_statistics, name_deep_stages

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
        self._held: tuple[Teacher] | None = None  # in a tuple: not a submodule

    def prepare(self, network: nn.Module, num_classes: int) -> None:
        """Copies the network as the teacher; makes projections and queues."""
        self.features = name_deep_stages(network)
        self._held = (Teacher(network, self.features),)
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

    def changing(self, network: nn.Module) -> AbstractContextManager[None]:
        """Freezes the backbone's BatchNorm statistics at the teacher's, if requested."""
        return frozen_statistics(network) if self.frozen_norms else nullcontext()

    def compute_losses(self, step: Step) -> dict[str, Tensor]:
        """Returns the contrastive loss of each stage; adds the keys of all processes to the queues."""
        assert self._held is not None
        changed = self.normalization.apply(self._change(self.restore(step.images)))
        frozen = self._held[0].describe(changed)
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
