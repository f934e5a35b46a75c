"""Compiled networks give what they give uncompiled, and fall back when the compiler fails."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from callbacks import IaBN, SegTTT
from lightning_modules.compilation import compile_network
from lightning_modules.segmentation import SegmentationModule
from tests.fakes import TinyNetwork, make_images


def test_a_compiler_that_fails_is_left_alone_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        def call(*_: Any) -> None:
            raise RuntimeError("no compiler here\nmore")

        return call

    network, image = TinyNetwork(), make_images(1)
    expected = network(image)
    monkeypatch.setattr(torch, "compile", fail)
    compile_network(network)
    with pytest.warns(UserWarning, match="TinyNetwork runs without torch.compile, which failed: no compiler here$"):
        assert torch.equal(network(image), expected)
    assert network._compiled_call_impl is None
    assert torch.equal(network(image), expected)


def test_an_input_that_the_network_refuses_is_its_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            raise ValueError("too small")

    monkeypatch.setattr(torch, "compile", lambda call, **_: call)
    network = Refusing()
    compile_network(network)
    with pytest.raises(ValueError, match="too small"):
        network(make_images(1))


def test_modes_are_known_and_a_copy_of_a_compiled_network_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="compile is 'fast': expected one of none, default, reduce-overhead"):
        SegmentationModule(TinyNetwork(), 5, compile="fast")
    monkeypatch.setattr(torch, "compile", lambda call, **_: call)
    network = TinyNetwork()
    compile_network(network)
    assert copy.deepcopy(network)._compiled_call_impl is None
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
