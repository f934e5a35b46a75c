import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models import VGG16_BN_Weights, VGG16_Weights, WeightsEnum
from torchvision.models.segmentation import fcn_resnet50

from lightning_modules.networks import FCN, FCN8s
from tests.fakes import make_images


def draw_weights(network: nn.Module) -> nn.Module:
    """Gives a network on the meta device weights, quickly."""
    generator = torch.Generator().manual_seed(0)
    network = network.to_empty(device="cpu").eval()
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.is_floating_point():
            bound = (3 / tensor[0].numel()) ** 0.5 if tensor.ndim > 1 else 0.1
            tensor.uniform_(-bound, bound, generator=generator)
    return network


def test_with_stride_in_place_of_our_dilation_it_is_torchvisions_fcn() -> None:
    """Torchvision dilates the first blocks, too; with its convolutions set so, the logits are the same."""
    with torch.device("meta"):
        theirs = fcn_resnet50(weights=None, weights_backbone=None, num_classes=4, aux_loss=False)
        ours = FCN("resnet50", 4).eval()
    state = {key.replace("classifier.", "head."): value for key, value in draw_weights(theirs).state_dict().items()}
    ours.load_state_dict(state, assign=True)
    for name, module in theirs.named_modules():
        if isinstance(module, nn.Conv2d) and name.startswith("backbone."):
            mine = ours.get_submodule(name)
            mine.dilation, mine.padding, mine.stride = module.dilation, module.padding, module.stride
    image = make_images(1, 33, 50)
    with torch.no_grad():
        logits, expected = ours(image), theirs(image)["out"]
    assert torch.allclose(logits, expected, rtol=1e-4, atol=1e-4 * expected.std())


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["vgg16", "vgg16_bn"])
def test_features_and_fc_layers_are_those_of_the_classifier(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the 7x7 map that the classifier takes, the centre of fc7 is the classifier's second layer."""
    with torch.device("meta"):
        theirs = getattr(torchvision.models, backbone)(weights=None)
    draw_weights(theirs)
    asked = []

    def get_state_dict(self: WeightsEnum, *args: object, **kwargs: object) -> dict[str, torch.Tensor]:
        asked.append(self)
        return theirs.state_dict()

    monkeypatch.setattr(WeightsEnum, "get_state_dict", get_state_dict)
    ours = FCN8s(backbone, 4, weights="imagenet").eval()
    assert asked == [{"vgg16": VGG16_Weights.IMAGENET1K_V1, "vgg16_bn": VGG16_BN_Weights.IMAGENET1K_V1}[backbone]]
    image = make_images(1, 224, 224)
    with torch.no_grad():
        features = theirs.features(image)
        pool5 = ours.conv5(ours.conv4(ours.conv3(ours.conv2(ours.conv1(image)))))
        assert torch.allclose(pool5, features, rtol=1e-4, atol=1e-5 * features.std())
        expected = theirs.classifier[:5](features.flatten(1))
        assert torch.allclose(ours.fc7(ours.fc6(pool5))[:, :, 3, 3], expected, rtol=1e-4, atol=1e-4 * expected.std())


def test_scores_are_added_from_coarse_to_fine() -> None:
    network = FCN8s("vgg16", 4, width=4).eval()
    image = make_images(1, 61, 75)
    with torch.no_grad():
        pool3 = network.conv3(network.conv2(network.conv1(image)))
        pool4 = network.conv4(pool3)
        pool5 = network.conv5(pool4)
        assert [x.shape[-2:] for x in (pool3, pool4, pool5)] == [(8, 10), (4, 5), (2, 3)]  # sizes round up
        coarse = network.head(network.fc7(network.fc6(pool5)))
        middle = F.interpolate(coarse, (4, 5), mode="bilinear") + network.score_pool4(pool4)
        fine = F.interpolate(middle, (8, 10), mode="bilinear") + network.score_pool3(pool3)
        assert torch.allclose(network(image), F.interpolate(fine, (61, 75), mode="bilinear"), atol=1e-6)
