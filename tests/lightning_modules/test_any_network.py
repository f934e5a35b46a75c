"""What holds for every network of this project, on tiny versions."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from callbacks.iabn import IaBN
from callbacks.seg_ttt import SegTTT, select_parameters
from lightning_modules.networks import FCN, DeepLabV1, DeepLabV3Plus, FCN8s, HRNet, SegmentationNetwork, Segmenter
from lightning_modules.predictor import predict_plainly
from tests.fakes import Snapshot, make_images

CLASSES = 5
Make = Callable[..., SegmentationNetwork]

WITH_BATCH_NORM: dict[str, Make] = {
    "deeplab_v1": lambda **kwargs: DeepLabV1("resnet10", CLASSES, width=4, **kwargs),
    "deeplab_v3_plus_8": lambda **kwargs: DeepLabV3Plus("resnet10", CLASSES, width=4, **kwargs),
    "deeplab_v3_plus_16": lambda **kwargs: DeepLabV3Plus("resnet10", CLASSES, width=4, output_stride=16, **kwargs),
    "fcn": lambda **kwargs: FCN("resnet10", CLASSES, width=4, **kwargs),
    "fcn8s_bn": lambda **kwargs: FCN8s("vgg16_bn", CLASSES, width=4, **kwargs),
    "hrnet": lambda **kwargs: HRNet(CLASSES, "hrnet_w18_small", **kwargs),
}
WITHOUT_BATCH_NORM: dict[str, Make] = {
    "fcn8s": lambda **kwargs: FCN8s("vgg16", CLASSES, width=4, **kwargs),
    "segmenter": lambda **kwargs: Segmenter(CLASSES, width=64, depth=3, **kwargs),
}
NETWORKS = WITH_BATCH_NORM | WITHOUT_BATCH_NORM


def make(name: str, **kwargs: object) -> SegmentationNetwork:
    """Makes a tiny network whose logits differ between pixels."""
    if name in ("hrnet", "segmenter"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    network = NETWORKS[name](**kwargs).eval()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.out_channels == CLASSES:
            nn.init.normal_(layer.weight, std=0.5)
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_have_the_size_of_the_image_and_no_sample_depends_on_its_batch(name: str) -> None:
    network, images = make(name), make_images(2, 41, 67)
    with torch.no_grad():
        logits = network(images)
        singles = torch.cat([network(images[:1]), network(images[1:])])
    assert logits.shape == (2, CLASSES, 41, 67)
    assert torch.allclose(logits, singles, rtol=1e-4, atol=1e-5 * logits.abs().max())
    assert not torch.allclose(logits[0], logits[1], rtol=1e-3)


@pytest.mark.parametrize("name", NETWORKS)
def test_smallest_image_works_and_a_smaller_one_is_a_clear_error(name: str) -> None:
    network = make(name)
    size = network.min_size
    with torch.no_grad():
        assert network(make_images(1, size, size)).shape == (1, CLASSES, size, size)
    with pytest.raises(ValueError, match=f"the image is {size}x{size - 1} pixels .* expects {size} or more"):
        network(make_images(1, size, size - 1))


@pytest.mark.parametrize("name", NETWORKS)
def test_adapted_layers_name_parts_of_the_network_but_not_all_of_it(name: str) -> None:
    network = make(name)
    for names in (network.adapted_layers, getattr(network, "released_layers", network.adapted_layers)):
        moving = select_parameters(network, names)
        assert "head.bias" in moving or "head.4.bias" in moving
        assert 0 < len(moving) < len(list(network.parameters()))
        assert not any(path.startswith(("backbone.conv1.", "conv1.", "backbone.patch_embed")) for path in moving)


@pytest.mark.parametrize("name", WITH_BATCH_NORM)
def test_iabn_blends_at_batch_size_1_and_leaves_the_network_as_it_was(name: str) -> None:
    network, images = make(name), make_images(1, 41, 67)
    before = Snapshot(network)
    plain = predict_plainly(network, images)  # in the same layout: this deep a random network amplifies rounding
    blended = IaBN(0.1).predict(network, images)
    assert blended.isfinite().all() and not torch.allclose(blended, plain, atol=1e-5)
    assert torch.allclose(IaBN(0.0).predict(network, images), plain, atol=1e-5)
    before.check(network)


@pytest.mark.parametrize("semantics", ["paper", "released"])
@pytest.mark.parametrize("name", NETWORKS)
def test_seg_ttt_moves_it_at_batch_size_1_and_leaves_it_as_it_was(name: str, semantics: str) -> None:
    network, images = make(name), make_images(1, 67, 83)
    alpha = 0.1 if name in WITH_BATCH_NORM else 0.0
    before = Snapshot(network)
    method = SegTTT(alpha, psi=0.1, num_steps=2, lr=0.01, scales=(0.5, 1.0), semantics=semantics)  # type: ignore[arg-type]
    adapted = method.predict(network, images)
    (account,) = method.adaptations
    assert account.steps == 2 and account.note is None and account.loss_last != account.loss_first
    unmoved = SegTTT(alpha, psi=0.1, num_steps=0, scales=(0.5, 1.0)).predict(network, images)
    assert not torch.allclose(adapted, unmoved, atol=1e-5)
    before.check(network)


@pytest.mark.parametrize("name", WITHOUT_BATCH_NORM)
def test_iabn_says_that_there_is_no_batch_norm(name: str) -> None:
    with pytest.raises(ValueError, match="has no 2d BatchNorm layer"):
        IaBN(0.1).check_network(make(name))


@pytest.mark.parametrize("name", NETWORKS)
def test_head_starts_from_the_papers_distribution(name: str) -> None:
    if name in ("hrnet", "segmenter"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    head = NETWORKS[name]().head
    classifier = head[-1] if isinstance(head, nn.Sequential) else head
    assert isinstance(classifier, nn.Conv2d) and classifier.bias is not None and (classifier.bias == 0).all()
    assert classifier.out_channels == CLASSES
    assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.4)


@pytest.mark.parametrize("name", NETWORKS)
def test_unknown_weights_are_a_clear_error(name: str) -> None:
    with pytest.raises(ValueError, match="weights is 'coco': expected 'imagenet' or None"):
        make(name, weights="coco")


@pytest.mark.parametrize(
    "make_with_one_class",
    [
        lambda: DeepLabV3Plus("resnet10", 1, width=4),
        lambda: FCN("resnet10", 1, width=4),
        lambda: FCN8s("vgg16", 1, width=4),
    ],
)
def test_one_class_is_a_clear_error(make_with_one_class: Callable[[], nn.Module]) -> None:
    with pytest.raises(ValueError, match="num_classes is 1: expected 2 or more"):
        make_with_one_class()


NORMS = ["switchable", "batch_instance", "ibn_a", "ibn_b"]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["deeplab_v3_plus_8", "fcn", "fcn8s_bn", "hrnet"])
def test_other_norms_train_and_adapt_or_are_refused(name: str, norm: str) -> None:
    if name == "fcn8s_bn" and norm.startswith("ibn"):
        with pytest.raises(ValueError, match="defined for residual networks alone"):
            make(name, norm=norm)
        return
    network, images = make(name, norm=norm), make_images(2, 67, 83)
    assert repr(network) != repr(make(name))
    before = {key: parameter.detach().clone() for key, parameter in network.named_parameters()}
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    F.cross_entropy(network.train()(images), torch.zeros(2, 67, 83, dtype=torch.int64)).backward()
    optimizer.step()
    assert all(parameter.isfinite().all() for parameter in network.parameters())
    moved = [key for key, parameter in network.named_parameters() if not torch.equal(parameter, before[key])]
    assert "head.bias" in moved or "head.4.bias" in moved
    method = SegTTT(0.0, psi=0.1, num_steps=1, lr=1e-3, scales=(0.5,))
    assert method.predict(network.eval(), images[:1]).isfinite().all() and method.adaptations[0].steps == 1


@pytest.mark.parametrize("name", [*WITH_BATCH_NORM, "fcn8s"])
def test_dropout_is_live_in_training_only_and_adds_no_key(name: str) -> None:
    plain, network, images = make(name), make(name, dropout=0.2), make_images(2, 41, 67)
    assert sorted(network.state_dict()) == sorted(plain.state_dict())
    rates = [module.p for module in network.modules() if isinstance(module, nn.Dropout)]
    assert rates.count(0.2) >= 5
    with torch.no_grad():
        assert torch.allclose(network(images), plain(images), atol=1e-5)
        network.train()
        assert not torch.allclose(network(images), network(images), atol=1e-3)
