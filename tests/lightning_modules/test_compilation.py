"""Compiled networks give what they give uncompiled, and fall back when the compiler fails."""

import copy
from unittest.mock import Mock

import pytest
import torch

from callbacks import IaBN, SegTTT
from lightning_modules.compilation import compile_network
from lightning_modules.segmentation import SegmentationModule
from tests.fakes import TinyNetwork, make_images


def test_a_compiler_that_fails_is_left_alone_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    network, image = TinyNetwork(), make_images(1)
    expected = network(image)
    failing = Mock(side_effect=RuntimeError("no compiler here\nmore"))
    monkeypatch.setattr(torch, "compile", lambda *_, **__: failing)
    compile_network(network)
    with pytest.warns(UserWarning, match="TinyNetwork runs without torch.compile, which failed: no compiler here$"):
        assert torch.equal(network(image), expected)
    assert network._compiled_call_impl is None
    assert torch.equal(network(image), expected)


def test_modes_copies_and_refused_images_of_compiled_networks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ValueError, match="compile is 'fast': expected one of none, default, reduce-overhead"):
        SegmentationModule(TinyNetwork(), 5, compile="fast")
    monkeypatch.setattr(torch, "compile", lambda call, **_: call)
    network = TinyNetwork()
    compile_network(network)
    assert copy.deepcopy(network)._compiled_call_impl is None
    with pytest.raises(RuntimeError, match="expected input"):
        network(torch.zeros(1, 2, 8, 8))
    compile_network(network, "none")
    assert network._compiled_call_impl is None


@pytest.mark.slow
def test_compiled_predictions_have_the_labels_of_uncompiled_ones() -> None:
    image = make_images(1)
    for method in (IaBN(0.3), SegTTT(num_steps=2, scales=(0.5,), trainable=["layer4", "head"])):
        network = TinyNetwork()
        expected = method.predict(network, image)
        compile_network(network)
        with torch._dynamo.config.patch(suppress_errors=False):
            compiled = method.predict(network, image)
        assert network._compiled_call_impl is not None
        torch.testing.assert_close(compiled, expected, atol=1e-5, rtol=0)
