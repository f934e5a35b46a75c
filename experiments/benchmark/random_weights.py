"""Networks with random weights that behave, for a measurement, as trained ones do."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_modules.predictor import predict_logits

CLASSES = 19
LOGITS_DEVIATION = 2.0  # about that of a trained network
FIRST_STEP = 0.01  # by about how much the first step of Seg-TTT lowers the loss
PART = (256, 512)  # of the image that is enough to choose a learning rate


def imitate_training(network: nn.Module, image: Tensor) -> None:
    """Gives a network with random weights what training gives: fitting running statistics and some confidence.

    With the initial statistics (mean 0, variance 1) the features of a deep network grow without bounds. With equal
    probabilities rounding alone decides many labels, and all pixels are as confident as the best.

    Args:
        network: Left in evaluation mode. Its running statistics become those of the image and its mirror image; layers
            with an output per class are scaled.
        image: (1, 3, H, W) float, normalised.
    """
    layers = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 1.0
    network.train()
    with torch.no_grad():
        network(torch.cat([image, image.flip(-1)]))
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        network.eval()
        factor = LOGITS_DEVIATION / predict_logits(network, image).std(dim=(2, 3)).mean().item()
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and module.out_channels == CLASSES:
                module.weight *= factor
                if module.bias is not None:
                    module.bias *= factor


def choose_rate(network: nn.Module, image: Tensor) -> float:
    """Chooses a learning rate for a network with random weights.

    Its gradients may be so large that the paper's rate leads to a chaos, in which rounding alone decides the labels.

    Args:
        network: In evaluation mode.
        image: (1, 3, H, W) float, normalised.

    Returns:
        The rate at which the first step on the network's own labels would lower the loss by about `FIRST_STEP`.
    """
    logits = predict_logits(network, image[..., : PART[0], : PART[1]])
    loss = F.cross_entropy(logits, logits.detach().argmax(dim=1))
    gradients = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    return FIRST_STEP / sum(float((gradient**2).sum()) for gradient in gradients if gradient is not None)
