import pytest
import torch
from torch import Tensor

from callbacks import SegTTT
from callbacks.adaptation import stopping
from callbacks.adaptation.stopping import Deadline, Pace
from tests.fakes import TinyNetwork, make_images


class Clock:
    """A clock that only moves when told to."""

    seconds = 100.0

    def work(self, milliseconds: float) -> None:
        self.seconds += milliseconds / 1000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stopping.time, "perf_counter", lambda: clock.seconds)
    return clock


IMAGE = torch.zeros(1, 3, 4, 4)


def adapt(
    clock: Clock,
    pace: Pace,
    limit: float | None,
    views: float = 10,
    step: float | list[float] = 30,
    final: float = 10,
    num_steps: int = 10,
    image: Tensor = IMAGE,
) -> tuple[int, float]:
    """Runs an image as Seg-TTT does; returns its steps and milliseconds."""
    start, steps = clock.seconds, 0
    deadline = Deadline(limit, pace, image)
    clock.work(views)
    while deadline.allows_step() and steps < num_steps:
        clock.work(step[min(steps, len(step) - 1)] if isinstance(step, list) else step)
        steps += 1
    clock.work(final)
    deadline.end()
    return steps, 1000 * (clock.seconds - start)


@pytest.mark.parametrize(
    ("limit", "first", "later"),
    [(1, 0, 0), (49, 1, 0), (51, 1, 1), (81, 2, 2), (201, 6, 6), (319, 9, 9), (321, 10, 10), (10_000, 10, 10)],
)
def test_as_many_steps_are_taken_as_fit(clock: Clock, limit: float, first: int, later: int) -> None:
    pace: Pace = {}
    found, took = adapt(clock, pace, limit)
    assert found == first  # the first step of the very first image is taken on trust
    assert took <= max(limit, 51)  # views, this one step, and the prediction
    for _ in range(4):
        found, took = adapt(clock, pace, limit)
        assert found == later and took <= max(limit, 20.1)


def test_number_of_steps_settles(clock: Clock) -> None:
    pace: Pace = {}
    for limit in range(20, 400, 7):
        for num_steps in (1, 2, 10):
            numbers = [adapt(clock, pace, limit, num_steps=num_steps)[0] for _ in range(6)]
            assert len(set(numbers[2:])) == 1, (limit, num_steps, numbers)


def test_a_slow_step_does_not_stop_adaptation_for_ever_and_slow_steps_are_not_tried_over_and_over(clock: Clock) -> None:
    for before, slow, steps in ((0, [5000.0, 30.0], 1), (2, [30.0, 3000.0, 30.0], 2)):  # the first step, a later one
        pace: Pace = {}
        assert [adapt(clock, pace, 201)[0] for _ in range(before)] == [6] * before
        assert adapt(clock, pace, 201, step=slow)[0] == steps
        assert [adapt(clock, pace, 201)[0] for _ in range(3)][-2:] == [6, 6]
    pace = {}
    assert [adapt(clock, pace, 50, step=300, final=100)[0] for _ in range(5)] == [1, 0, 0, 0, 0]


def test_each_size_has_a_pace_of_its_own(clock: Clock) -> None:
    pace, large = {}, torch.zeros(1, 3, 8, 8)
    for _ in range(2):
        assert adapt(clock, pace, 201)[0] == 6
        assert adapt(clock, pace, 201, step=100, image=large)[0] == 1
    assert pace[1, 3, 4, 4] == pytest.approx((30, 10)) and pace[1, 3, 8, 8] == pytest.approx((100, 10))


class SlowNetwork(TinyNetwork):
    """Takes 40 ms for each forward pass, by a clock that nothing else moves, however busy the machine is."""

    clock: Clock

    def forward(self, image: Tensor) -> Tensor:
        self.clock.work(40)
        return super().forward(image)


@pytest.mark.parametrize("semantics", ["paper", "released"])
@pytest.mark.parametrize("budget", [300, 500])
def test_images_of_a_slow_network_end_within_the_budget(budget: float, semantics: str, clock: Clock) -> None:
    network = SlowNetwork()
    network.clock = clock
    method = SegTTT(scales=(0.5,), time_budget_ms=budget, semantics=semantics, num_steps=50)
    for image in make_images(3).split(1):
        start = clock.seconds
        method.predict(network, image)
        assert 1000 * (clock.seconds - start) <= budget + 40  # what the last pass takes is a guess in the first image
        (adaptation,) = method.adaptations
        assert 1 <= adaptation.steps <= (budget + 40) / 40 - 3  # two views and the prediction are passes too
        assert adaptation.to_record()["steps"] == adaptation.steps
