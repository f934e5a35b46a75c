import gc
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from callbacks import TTA, IaBN, Method, SegTTT
from callbacks.method import TooLargeError, is_out_of_memory
from tests.fakes import TinyNetwork, make_images, unchanged

CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB.\nA second line that nobody reads"
cuda_error = partial(torch.OutOfMemoryError, CUDA)
cpu_error = partial(RuntimeError, "err == 0. DefaultCPUAllocator: can't allocate memory: 9999 bytes.")


class LimitedNetwork(TinyNetwork):
    """Runs out of memory on images of more pixels."""

    def __init__(self, pixels: int, make_error: Callable[[], BaseException] = cuda_error) -> None:
        super().__init__()
        self.pixels, self.make_error = pixels, make_error

    def forward(self, image: Tensor) -> Tensor:
        if image.shape[-2] * image.shape[-1] > self.pixels:
            raise self.make_error()
        return super().forward(image)


METHODS: dict[str, Method] = {
    "IaBN": IaBN(0.1),
    "TTA": TTA(0.1, scales=(1.0,)),
    "SegTTT": SegTTT(num_steps=2, scales=(0.5,)),
    "SegTTT-released": SegTTT(num_steps=2, scales=(0.5,), semantics="released"),
    "SegTTT-head": SegTTT(trainable=["head"], num_steps=3, scales=(0.5,)),
}


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> Method:
    return METHODS[request.param].vary({})


@pytest.mark.parametrize("make_error", [cuda_error, cpu_error])
def test_message_says_what_was_too_large_and_what_to_do(method: Method, make_error: Callable[[], RuntimeError]) -> None:
    network = LimitedNetwork(64 * 96 * 6 // 10, make_error).train()
    with unchanged(network), pytest.raises(TooLargeError) as caught:
        method.predict(network, make_images(1, 64, 96))
    message = str(caught.value)
    assert "an image of 64x96 pixels (HxW) is too large for the memory of the cpu" in message
    assert str(make_error()).splitlines()[0] in message and "second line" not in message
    assert "data.evaluation_resize" in message and "bf16-mixed" in message and "fewer `trainable` layers" in message
    assert not isinstance(caught.value.__cause__ or caught.value.__context__, RuntimeError)  # nothing keeps the memory


@pytest.mark.parametrize(
    "error", [RuntimeError("stop"), ValueError("stop"), KeyboardInterrupt("stop"), MemoryError("stop")]
)
def test_other_errors_pass_through_unchanged(method: Method, error: BaseException) -> None:
    network = LimitedNetwork(0, lambda: error)
    with unchanged(network), pytest.raises(type(error), match="stop") as caught:
        method.predict(network, make_images(1, 64, 96))
    assert not is_out_of_memory(error)
    # A view that is too small for the network is a ValueError, which is told which view it was.
    assert caught.value is error or (isinstance(error, ValueError) and caught.value.__cause__ is error)


def test_what_filled_the_memory_is_gone_when_the_error_is_raised() -> None:
    network, method = TinyNetwork(), SegTTT(num_steps=1, scales=(0.5,))
    made: list[weakref.ref[Tensor]] = []
    alive: list[bool] = []

    def fail_once(module: Any, inputs: Any, output: Tensor) -> None:
        if output.requires_grad and not made:
            made.append(weakref.ref(output))
            raise cuda_error()
        alive.append(bool(made and made[0]() is not None))

    network.register_forward_hook(fail_once)
    gc.disable()  # it must not take the collector of cycles
    try:
        with pytest.raises(TooLargeError):
            method.predict(network, make_images(1, 64, 96))
        method.predict(network, make_images(1, 64, 96))
    finally:
        gc.enable()
    assert len(alive) > 2 and not any(alive[-2:])


def test_tensors_of_an_image_are_gone_with_its_prediction(method: Method) -> None:
    network, failing, image = TinyNetwork(), LimitedNetwork(0), make_images(1)
    counts = []
    for _ in range(4):
        method.predict(network, image)
        with pytest.raises(TooLargeError):
            method.predict(failing, image)
        method.predict(network, image)
        gc.collect()
        counts.append(sum(issubclass(type(thing), Tensor) for thing in gc.get_objects()))
    assert counts[1] == counts[-1]


@pytest.mark.cuda
def test_cuda_out_of_memory_is_explained_and_the_memory_is_free_again() -> None:
    class Greedy(TinyNetwork):
        """Asks for more memory than there is for images of more than 2,048 pixels."""

        def forward(self, image: Tensor) -> Tensor:
            if image.shape[-2] * image.shape[-1] > 2048:
                kept = [torch.empty(2**28, device=image.device)]
                kept.append(torch.empty(2**50, device=image.device))
            return super().forward(image)

    network = Greedy().cuda()
    IaBN().predict(network, make_images(1).cuda())
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    with pytest.raises(TooLargeError, match=r"64x96 pixels.*GiB free"):
        IaBN().predict(network, make_images(1, 64, 96).cuda())
    gc.collect()
    assert torch.cuda.memory_allocated() <= before + 2**22
