"""Times the methods at the size of real images, beside the plain loop and the device's own rate."""

import gc
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor

from callbacks.iabn import IaBN
from callbacks.method import Method
from callbacks.seg_ttt import SegTTT
from callbacks.tta import TTA
from experiments.benchmark.cost import autocast, count_flops, exact_float32, measure_peak, measure_rate, time_call
from experiments.benchmark.plain_loop import PlainLoop, PlainSettings, normalise
from experiments.benchmark.random_weights import choose_rate, imitate_training
from experiments.gpu_check.runner import Row
from experiments.gpu_check.subjects import Setup, draw_pixels
from lightning_modules.compilation import compile_network
from lightning_modules.networks.deeplab_v1 import DeepLabV1
from lightning_modules.predictor import predict_plainly

ALPHA, SCALES, PSI = 0.1, (0.25, 0.5, 0.75), 0.7
METHODS = ("plain", "IaBN", "Seg-TTT 10", "Seg-TTT 3", "TTA")  # the most wanted first
PRECISIONS = {"float32 (TF32)": "32-true", "bf16": "bf16-mixed"}
REPEATS = 5

Call = Callable[[], Tensor]


class Timing:
    """Times one backbone after another; keeps what later rows are compared with.

    Args:
        setup: Where and how large.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.size = setup.timing_size
        self.pixels = draw_pixels(self.size)
        self.rates: dict[str, float] = {}
        self._flops: dict[tuple[str, str], float] = {}
        self._subject: tuple[str, DeepLabV1, Tensor, float] | None = None

    def measure_rates(self) -> Iterator[Row]:
        """Measures how fast the device multiplies matrices in each precision; `measure` asks for it if it must."""
        device, size = self.setup.device, 128 if self.setup.tiny else None
        modes: dict[str, tuple[str, AbstractContextManager]] = {
            "bf16": ("bf16-mixed", nullcontext()),
            "float32 (TF32)": ("32-true", allow_tf32()),
            "float32": ("32-true", exact_float32()),
        }
        for name, (precision, context) in modes.items():
            with context:
                self.rates[name] = measure_rate(device, precision, size)
            yield {"precision": name, "TFLOP/s": self.rates[name]}

    def measure(self, backbone: str, precision: str, compiled: bool = False) -> Iterator[Row]:
        """Times the methods in one of `PRECISIONS`."""
        if not self.rates:
            list(self.measure_rates())
        network, image, lr = self._make(backbone)
        try:
            if compiled:
                compile_network(network, "default")
            for name in METHODS[:1] if compiled and self.setup.tiny else METHODS:  # compiling takes long, however tiny
                method = make_method(name, lr)

                def call(method: Method | None = method) -> Tensor:
                    with autocast(self.setup.device, PRECISIONS[precision]):
                        return predict_plainly(network, image) if method is None else method.predict(network, image)

                row: Row = {"network": backbone, "precision": precision, "method": name}
                row |= self._time(call) if not compiled else self._time_compiled(call, network)
                tflop = self._count(backbone, name, call, compiled)
                if tflop is not None:
                    row |= {"TFLOP": tflop, "of matrix rate": tflop / row["ms"] * 1000 / self.rates[precision]}
                yield row
        finally:
            compile_network(network, "none")

    def measure_plain_loop(self, backbone: str) -> Iterator[Row]:
        """Times the methods as one writes them at first, in float32 (TF32)."""
        network, image, lr = self._make(backbone)
        trainable = network.adapted_layers
        moving = [name for name, _ in network.named_parameters() if set(name.split(".")) & set(trainable)]
        settings = {
            "plain": PlainSettings(),
            "IaBN": PlainSettings(ALPHA),
            "Seg-TTT 10": PlainSettings(ALPHA, SCALES, PSI, 10, lr, moving),
            "Seg-TTT 3": PlainSettings(ALPHA, SCALES, PSI, 3, lr, moving),
            "TTA": PlainSettings(ALPHA, SCALES),
        }
        with tempfile.TemporaryDirectory() as folder, allow_tf32():
            for name in METHODS:
                loop = PlainLoop(network, Path(folder) / "checkpoint.pth", settings[name])
                row = {"network": backbone, "precision": "float32 (TF32)", "method": f"plain loop: {name}"}
                yield row | self._time(lambda loop=loop: loop.predict(self.pixels, image))  # type: ignore[misc]

    def _make(self, backbone: str) -> tuple[DeepLabV1, Tensor, float]:
        """Returns a network on the device, its image and learning rate; the latest is kept."""
        if self._subject is None or self._subject[0] != backbone:
            self._subject = None
            self._free()
            device = self.setup.device
            image, network = normalise(self.pixels).to(device), self.setup.make_network(backbone).to(device)
            imitate_training(network, image)
            self._subject = backbone, network, image, choose_rate(network, image)
        return self._subject[1:]

    def _time(self, call: Call) -> Row:
        """Returns the median milliseconds of some calls, and the peak memory of one."""
        with allow_tf32():
            self._free()
            peak = measure_peak(call, self.setup.device)  # the first call is also the warm-up
            if self.setup.device.type == "cuda":
                peak = measure_peak(call, self.setup.device)  # without what the choice of an algorithm takes
            times = sorted(time_call(call, self.setup.device) for _ in range(2 if self.setup.tiny else REPEATS))
        return {"ms": times[len(times) // 2], "ms min": times[0], "ms max": times[-1], "peak MB": peak}

    def _time_compiled(self, call: Call, network: DeepLabV1) -> Row:
        """As `_time`; the first call also compiles."""
        with allow_tf32():
            seconds = time_call(call, self.setup.device) / 1000
        failed = network._compiled_call_impl is None  # then it runs as it is written, with a warning that says why
        return {"compiling s": seconds, "compiled": not failed} | self._time(call)

    def _count(self, backbone: str, name: str, call: Call, compiled: bool) -> float | None:
        """Returns the TFLOP of a method, counted once; None if only a compiled network could be asked."""
        if (backbone, name) not in self._flops and not compiled:
            self._flops[backbone, name] = count_flops(call)[0] / 1e12
        return self._flops.get((backbone, name))

    def _free(self) -> None:
        gc.collect()
        if self.setup.device.type == "cuda":
            torch.cuda.empty_cache()


def make_method(name: str, lr: float) -> Method | None:
    """Makes one of `METHODS`; None is the plain forward."""
    if name == "plain":
        return None
    if name == "IaBN":
        return IaBN(ALPHA)
    if name == "TTA":
        return TTA(ALPHA, SCALES)
    return SegTTT(ALPHA, PSI, num_steps=int(name.split()[1]), lr=lr, scales=SCALES)


@contextmanager
def allow_tf32() -> Iterator[None]:
    """Lets float32 products round to TF32, and cuDNN choose its algorithms by trying, as the GPU presets do."""
    convolutions, products = torch.backends.cudnn, torch.get_float32_matmul_precision()
    before = convolutions.allow_tf32, convolutions.benchmark
    convolutions.allow_tf32 = convolutions.benchmark = True
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        convolutions.allow_tf32, convolutions.benchmark = before
        torch.set_float32_matmul_precision(products)
