"""AdaBN: every BatchNorm uses the statistics of a batch of target images, or blends them with its own.

Source: Nado et al. (2020) for prediction-time batches; Schneider et al. (2020) for the source's weight N / (N + n).
The name comes from Li et al. (2017), who use the statistics of the whole target set.
"""

from torch import Tensor, nn

from callbacks.adaptation.arguments import check_number
from callbacks.iabn import adaptive_batch_norm, check_batch_norm
from callbacks.method import Method
from lightning_modules.predictor import predict_plainly


class AdaBN(Method):
    """Normalises with the statistics of the whole batch of test images, for comparison.

    Unlike every other method here it needs several target images at once, and the prediction for an image depends on
    the rest of its batch; the data's ``eval_batch_size`` sets the batch size. The training statistics have weight
    N / (N + n) and the batch's n / (N + n), where n is the number of images in the batch.

    Args:
        prior: N, the weight of the training statistics as a number of images, 0 or more. 0 is p-BN over a batch (Nado
            et al.); larger values approach t-BN (Schneider et al.).

    Raises:
        ValueError: If the prior is negative or not finite.
    """

    per_image = False

    def __init__(self, prior: float = 0.0) -> None:
        super().__init__()
        check_number("prior", prior, 0, expected="the weight of the training statistics in images, 0 or more")
        self.prior = prior

    def check_network(self, network: nn.Module) -> None:
        """Raises ValueError if the network has no BatchNorm."""
        check_batch_norm(network, alpha=1.0)

    def adapt(self, network: nn.Module, image: Tensor) -> Tensor:
        """Predicts a whole batch at once; see `Method.adapt`."""
        if len(image) == 1:
            self._warn(
                "the batch is a single image, so the statistics are those of one image (as in p-BN): expected "
                "several images, set --data.eval_batch_size=8"
            )
        alpha = len(image) / (self.prior + len(image))
        with adaptive_batch_norm(network, alpha, pooled=True):
            return predict_plainly(network, image)
