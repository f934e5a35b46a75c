"""TTA: the mean softmax over scaled, flipped and grayscaled views.

Source: Simonyan and Zisserman (2015); paper, Sec. 5.2 and Appendix C (Table 6).
"""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from callbacks.adaptation.alpha import Alpha, read_alpha
from callbacks.adaptation.arguments import check_refine
from callbacks.adaptation.refinement import refine_edges
from callbacks.iabn import adaptive_batch_norm, check_batch_norm
from callbacks.method import Method
from callbacks.pseudo_labels import fuse_views
from callbacks.views import Normalization, Resampling, check_resampling, make_views
from lightning_modules.predictor import predict_logits


class TTA(Method):
    """Test-time augmentation, with IaBN.

    Args:
        alpha: Weight of the test image's statistics in [0, 1]; 0 turns IaBN off and accepts any network.
        scales: Factors on the image's size, each above 0.
        flip: Whether the second view of each scale is mirrored.
        grayscale: Whether the second view of each scale is gray.
        resampling: ``device`` resizes views on the image's device; ``pillow`` on the CPU, as the authors' code does.
        normalization: Mean and standard deviation used to normalise images; None means ImageNet's.
        autocontrast: Whether the second view of each scale has its contrast stretched, see `View`. Without flip,
            grayscale and autocontrast there is one view per scale.
        refine: Number of iterations that align the prediction with the image's edges, as `refine_edges` does; 0 is
            the paper's.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        alpha: Alpha = 0.1,
        scales: Sequence[float] = (0.25, 0.5, 0.75),
        flip: bool = True,
        grayscale: bool = True,
        resampling: Resampling = "device",
        normalization: Normalization | None = None,
        autocontrast: bool = False,
        refine: int = 0,
    ) -> None:
        super().__init__()
        check_resampling(resampling)
        check_refine(refine)
        self.alpha = read_alpha(alpha)
        self.flip = flip
        self.grayscale = grayscale
        self.resampling = resampling
        self.normalization = normalization or Normalization()
        self.autocontrast = autocontrast
        self.views = make_views(scales, flip, grayscale, autocontrast)
        self.scales = tuple(scales)
        self.refine = refine

    def check_network(self, network: nn.Module) -> None:
        """Raises ValueError if alpha is above 0 and the network has no BatchNorm."""
        check_batch_norm(network, self.alpha)

    def adapt(self, network: nn.Module, image: Tensor) -> Tensor:
        """Predicts one image; see `Method.adapt`."""
        predict = partial(predict_logits, network)
        with adaptive_batch_norm(network, self.alpha):
            fused = fuse_views(predict, image, self.views, self.normalization, self.resampling)
        return refine_edges(fused, image, self.refine)
