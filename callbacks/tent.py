"""Tent: test-time entropy minimisation over the scale and shift of every BatchNorm.

Source: Wang et al. (2021), Sec. 3; paper, Sec. 5.3 (comparison with 10 steps per image).
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from callbacks.adaptation.alpha import Alpha, read_alpha
from callbacks.adaptation.arguments import check_choice, check_steps, check_trust
from callbacks.adaptation.steps import moving, restore, take_step, try_loss_scales
from callbacks.iabn import adaptive_batch_norm, check_batch_norm
from callbacks.method import Adaptation, Method
from lightning_modules.predictor import predict_logits
from lightning_modules.segmentation import SegmentationModule

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}


class Tent(Method):
    """Test-time entropy minimisation.

    Each step lowers the mean entropy of the prediction over the pixels of one image. Only the weight and bias of every
    BatchNorm are trained; features are normalised by the image's own statistics (alpha 1) or a blend.

    Args:
        alpha: Weight of the test image's statistics in [0, 1]; the original method uses 1.
        num_steps: Number of steps per image.
        lr: Learning rate; 0.001 is the original code's default.
        episodic: Whether every image starts from the trained network, as in the paper's comparison, with a prediction
            after the last step. If not, Tent is online, as originally proposed: **it keeps what it learned from one
            image for all later ones**, so results depend on the earlier images and their order (and, with several
            processes, on how images are split); the prediction is the forward pass of the last step, before its
            update. What it learned is discarded when the run ends; the network itself is not changed.
        optimizer: ``adam``, as in the original code, or ``sgd`` without momentum.
        trust: Weight of the adapted prediction in [0, 1]; the rest is the unadapted prediction with the same alpha.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        alpha: Alpha = 1.0,
        num_steps: int = 10,
        lr: float = 0.001,
        episodic: bool = True,
        optimizer: Literal["adam", "sgd"] = "adam",
        trust: float = 1.0,
    ) -> None:
        super().__init__()
        check_steps(num_steps, lr, least=0 if episodic else 1)
        check_choice("optimizer", optimizer, OPTIMIZERS)
        check_trust(trust)
        self.alpha = read_alpha(alpha)
        self.num_steps = num_steps
        self.lr = lr
        self.episodic = episodic
        self.optimizer = optimizer
        self.trust = trust
        # By network, the parameters and the optimizer's state that online Tent learned from the images so far.
        self._learned: WeakKeyDictionary[nn.Module, tuple[list[Tensor], dict[str, Any]]] = WeakKeyDictionary()

    @property
    def keeps_knowledge(self) -> bool:
        """Whether what was learned from an image changes the predictions for later ones."""
        return not self.episodic

    def check_network(self, network: nn.Module) -> None:
        """Raises ValueError if the network has no BatchNorm with weight and bias."""
        list_affine(network)
        check_batch_norm(network, self.alpha)

    def adapt(self, network: nn.Module, image: Tensor) -> Adaptation:
        """Predicts one image; see `Method.adapt`."""
        with adaptive_batch_norm(network, self.alpha):
            own = predict_logits(network, image).float().softmax(dim=1) if self.trust < 1 else None
            (outcome,) = try_loss_scales(lambda scale: [self._learn(network, image, scale)], image.device)
        return outcome if own is None else outcome.temper(own, self.trust)

    def forget(self) -> None:
        """Discards what was learned: the next image starts from the trained network."""
        self._learned.clear()

    def _learn(self, network: nn.Module, image: Tensor, scale: float) -> Adaptation:
        """Takes the steps and predicts the image; `scale` multiplies the loss in the backward pass."""
        losses = []
        with moving(network, list_affine(network)) as parameters:
            optimizer = OPTIMIZERS[self.optimizer](parameters, lr=self.lr)
            if not self.episodic:
                self._recall(network, parameters, optimizer)
            for _ in range(self.num_steps):
                with torch.enable_grad():
                    logits = predict_logits(network, image).float()
                    loss = entropy(logits).mean()
                    take_step(loss, parameters, optimizer, scale)
                losses.append(loss.detach())
            if self.episodic:
                logits = predict_logits(network, image)
            elif torch.stack([tensor.isfinite().all() for tensor in (*parameters, logits)]).all():  # do not keep NaN
                values = [parameter.detach().clone() for parameter in parameters]
                self._learned[network] = values, deepcopy(optimizer.state_dict())
        probabilities = logits.detach().float().softmax(dim=1)
        return Adaptation(probabilities, torch.stack(losses).tolist() if losses else [])

    def _recall(self, network: nn.Module, parameters: list[nn.Parameter], optimizer: Optimizer) -> None:
        """Restores the parameters and optimizer state from earlier images; warns if there are none yet."""
        if network in self._learned:
            values, state = self._learned[network]
            restore(parameters, values)
            optimizer.load_state_dict(state)
            return
        rank_zero_warn(
            "Tent is online: from here on it KEEPS what it learns from each image for all later ones. Results "
            "depend on the order of the images; set episodic=true for independent images."
        )

    def _install(self, module: SegmentationModule) -> None:
        self.forget()
        super()._install(module)

    def _remove(self, module: SegmentationModule) -> None:
        self.forget()
        super()._remove(module)


def entropy(logits: Tensor) -> Tensor:
    """Computes the entropy of each pixel of (B, K, H, W) logits: (B, H, W) nats in [0, log K]."""
    return -(logits.softmax(dim=1) * logits.log_softmax(dim=1)).sum(dim=1)


def list_affine(network: nn.Module) -> list[str]:
    """Lists the full names of the weight and bias of every BatchNorm; raises ValueError if there are none."""
    layers = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    affine = {id(parameter) for layer in layers for parameter in (layer.weight, layer.bias) if parameter is not None}
    names = [name for name, parameter in network.named_parameters() if id(parameter) in affine]
    if not names:
        raise ValueError(
            f"{type(network).__name__} has no BatchNorm with weight and bias, the only parameters that Tent trains: "
            "use a network with BatchNorm, or another method"
        )
    return names
