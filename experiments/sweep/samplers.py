"""Which point of a sweep is next, and which trial is hopeless: samplers and pruners of Optuna."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from experiments.sweep.definition import Definition
from experiments.sweep.parameters import Parameter

EVERY = 5  # images, trials are compared
FIRST_IMAGES = 10  # before which no trial is stopped
FIRST_TRIALS = 4  # that have seen as many images, before one is stopped
WORST = 0.25  # the share of trials that one has to be below
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
VALUES = "values"  # what a trial tries, among its attributes


class GridInOrder(BaseSampler):
    """Goes through a grid in order, also on several machines that share a study.

    Args:
        parameters: Of the sweep, all with a grid.
    """

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self.points = list_points(parameters)
        self._next: dict[int, dict[str, Any]] = {}

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Chooses the first point that is free, or one behind it for each machine that is choosing at this moment."""
        others = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]
        open_trials = [other for other in others if other.state != TrialState.FAIL]
        taken = [other.user_attrs[VALUES] for other in open_trials if VALUES in other.user_attrs]
        free = [drawn for drawn, values in self.points if values not in taken]
        choosing = sum(VALUES not in other.user_attrs and other.number < trial.number for other in open_trials)
        self._next[trial.number] = free[choosing % len(free)] if free else self.points[0][0]

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Returns nothing: each parameter is asked for alone."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Returns nothing: each parameter is asked for alone."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Returns the trial's value of a parameter."""
        return self._next[trial.number][param_name]


class SeededByTrial(BaseSampler):
    """Draws each trial from a seed of its own: a study that goes on, or is shared, does not draw the same again.

    Args:
        make: A sampler of a seed.
        seed: Of the whole sweep.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int = 0) -> None:
        self.make = make
        self.seed = seed
        self._sampler = make(seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Seeds."""
        self._sampler = self.make(int(np.random.SeedSequence([self.seed, trial.number]).generate_state(1)[0]))
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Returns which parameters are drawn together."""
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draws parameters together."""
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draws one parameter."""
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)


def list_claims(study: optuna.Study) -> list[FrozenTrial]:
    """Lists the trials that are finished or running, and what they try is known of."""
    trials = study.get_trials(deepcopy=False, states=(*FINISHED, TrialState.RUNNING))
    return [trial for trial in trials if VALUES in trial.user_attrs]


class WorstQuarter(BasePruner):
    """Stops a trial that, on the images it has seen, is below three quarters of the trials on the same images.

    Not before 10 images, and not before 4 other trials have seen as many.
    """

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Returns whether a trial is hopeless."""
        images = trial.last_step
        if images is None or images < FIRST_IMAGES:
            return False
        others = [
            other.intermediate_values[images]
            for other in study.get_trials(deepcopy=False, states=FINISHED)
            if images in other.intermediate_values
        ]
        return len(others) >= FIRST_TRIALS and trial.intermediate_values[images] < float(np.quantile(others, WORST))


def list_points(parameters: Sequence[Parameter]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Lists the points of a grid, the first parameter slowest: what Optuna draws, and the values."""
    grids = [parameter.grid or () for parameter in parameters]
    points = []
    for drawn in itertools.product(*grids):
        pairs = list(zip(parameters, drawn, strict=True))
        points.append(({p.name: value for p, value in pairs}, {p.name: p.to_value(value) for p, value in pairs}))
    return points


def make_sampler(name: str, definition: Definition, seed: int) -> BaseSampler:
    """Makes a sampler: ``grid``, ``random`` or ``tpe``.

    Raises:
        ValueError: If a parameter of a grid has no end of values.
    """
    if name == "grid":
        endless = [parameter.name for parameter in definition.parameters if parameter.grid is None]
        if endless:
            raise ValueError(
                f"{definition.path}: {', '.join(endless)} has no end of values: expected `values` for a grid, or "
                "method random or bayes"
            )
        return GridInOrder(definition.parameters)
    if name == "random":
        return SeededByTrial(lambda number: RandomSampler(seed=number), seed)
    return SeededByTrial(lambda number: TPESampler(seed=number, constant_liar=True), seed)


def make_pruner(definition: Definition, pruning: bool) -> BasePruner:
    """Makes what stops hopeless trials; the sweep's own `early_terminate` if it has one."""
    if not pruning:
        return NopPruner()
    rule = definition.early_terminate
    if rule is None:
        return WorstQuarter()
    return SuccessiveHalvingPruner(min_resource=rule["first"], reduction_factor=rule["eta"])
