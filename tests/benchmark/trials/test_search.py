"""The search: the grid and its growth, drop path, the final runs, and what is planned of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jaxdet.benchmark.trials.search import (
    DROP_PATH,
    FINAL,
    GRID,
    PRETRAINED,
    RANDOM,
    Point,
    best_of,
    extended,
    most_trials,
    planned_stages,
    tune,
    tune_drop_path,
    tune_grid,
)
from jaxdet.errors import UserError


class Runs:
    """Scores points by a function, and notes them by stage."""

    def __init__(self, score):
        self.score, self.stages = score, []

    def __call__(self, stage, points):
        self.stages.append((stage, list(points)))
        return [self.score(point) for point in points]

    @property
    def tried(self):
        return [point for _, points in self.stages for point in points]


def peak(lr: float, weight_decay: float):
    """An AP that falls with the distance, in factors, from a best point."""

    def score(point):
        far = abs(point.lr / lr - lr / point.lr)
        return 0.5 - 0.01 * (far + abs(point.weight_decay / weight_decay - 1))

    return score


def test_the_search_space_is_the_papers():
    assert PRETRAINED.lrs == (0.8e-4, 1.6e-4, 3.2e-4)
    assert PRETRAINED.weight_decays == (0.05, 0.1, 0.2)
    assert PRETRAINED.drop_paths == (0.0, 0.1, 0.2, 0.3)
    assert (PRETRAINED.epochs_short, PRETRAINED.epochs_drop_path) == (25, 50)
    assert PRETRAINED.epochs_final == (25, 50, 100)
    assert (RANDOM.epochs_short, RANDOM.epochs_drop_path) == (100, 100)
    assert RANDOM.epochs_final == (100, 200, 400)
    assert RANDOM.lrs == PRETRAINED.lrs


def test_names_are_readable_and_exact():
    assert Point(1.6e-4, 0.1, 0.0, 25.0).name == "lr1.6e-04_wd0.1_dp0_25ep"
    assert Point(1.28e-3, 0.05, 0.15, 0.5).name == "lr1.28e-03_wd0.05_dp0.15_0.5ep"
    lr = 1.6e-4 * 1.0000001
    assert float(Point(lr, 0.1, 0.0, 25.0).name.split("_")[0].removeprefix("lr")) == lr


def test_a_grid_whose_best_is_inside_stays():
    run = Runs(peak(1.6e-4, 0.1))
    assert tune_grid(PRETRAINED, run) == (1.6e-4, 0.1, None)
    assert [(stage, len(points)) for stage, points in run.stages] == [(GRID, 9)]
    assert {point.drop_path for point in run.tried} == {0.0}
    assert {point.epochs for point in run.tried} == {25.0}


@pytest.mark.parametrize(
    ("best", "grown"),
    [
        ((0.8e-4, 0.1), {(0.4e-4, decay) for decay in (0.05, 0.1, 0.2)}),
        ((3.2e-4, 0.1), {(6.4e-4, decay) for decay in (0.05, 0.1, 0.2)}),
        ((1.6e-4, 0.05), {(lr, 0.025) for lr in (0.8e-4, 1.6e-4, 3.2e-4)}),
        ((1.6e-4, 0.2), {(lr, 0.4) for lr in (0.8e-4, 1.6e-4, 3.2e-4)}),
        (
            (0.8e-4, 0.2),
            {(0.4e-4, decay) for decay in (0.05, 0.1, 0.2, 0.4)}
            | {(lr, 0.4) for lr in (0.8e-4, 1.6e-4, 3.2e-4)},
        ),
    ],
)
def test_a_grid_grows_where_its_best_lies_on_the_border(best, grown):
    run = Runs(peak(*best))
    assert tune_grid(PRETRAINED, run) == (*best, None)
    assert len(run.stages) == 2
    points = run.stages[1][1]
    assert len(points) == len(grown)
    assert {(point.lr, point.weight_decay) for point in points} == grown


def test_a_grid_grows_until_its_best_is_inside():
    run = Runs(peak(12.8e-4, 0.1))
    assert tune_grid(PRETRAINED, run) == (12.8e-4, 0.1, None)
    assert [len(points) for _, points in run.stages] == [9, 3, 3, 3]
    assert max(point.lr for point in run.tried) == 25.6e-4


def test_a_grid_grows_no_further_than_it_may():
    run = Runs(lambda point: point.lr + point.weight_decay)
    lr, weight_decay, remark = tune_grid(replace(PRETRAINED, max_extensions=2), run)
    assert (lr, weight_decay) == (12.8e-4, 0.8)
    assert "grew 2 time(s) and lies on its border still" in remark
    assert (
        len(run.tried) == len(set(run.tried)) == most_trials(replace(PRETRAINED, max_extensions=2))
    )


def test_what_an_axis_grows_by():
    assert extended((1.0, 2.0, 4.0), 2.0) == (1.0, 2.0, 4.0)
    assert extended((1.0, 3.0), 3.0) == (1.0, 3.0, 9.0)
    assert extended((1.0, 4.0), 1.0) == (0.25, 1.0, 4.0)
    assert extended((5.0,), 5.0) == (5.0,)
    assert extended((0.0, 0.1), 0.0) == (0.0, 0.1)
    assert extended((0.0, 0.1), 0.1) == (0.0, 0.1, 0.2)


def test_ties_go_to_the_first_and_divergence_is_never_best():
    points = [Point(lr, 0.1, 0.0, 25.0) for lr in (1.0, 2.0, 3.0)]
    assert best_of(dict(zip(points, (0.1, 0.3, 0.3), strict=True))) is points[1]
    assert best_of(dict(zip(points, (None, 0.0, 0.0), strict=True))) is points[1]
    with pytest.raises(UserError, match="all 3 trials diverged"):
        best_of(dict.fromkeys(points))


def test_drop_path_is_tuned_at_the_chosen_point():
    run = Runs(lambda point: -abs(point.drop_path - 0.2))
    assert tune_drop_path(PRETRAINED, run, 8e-5, 0.1) == 0.2
    assert run.stages == [
        (DROP_PATH, [Point(8e-5, 0.1, drop_path, 50.0) for drop_path in (0.0, 0.1, 0.2, 0.3)])
    ]


def test_one_point_needs_no_trial():
    fixed = replace(PRETRAINED, lrs=(8e-5,), weight_decays=(0.1,), drop_paths=(0.1,))
    run, choices = Runs(lambda point: 0.5), []
    tune(fixed, run, lambda chosen, remark: choices.append(dict(chosen)))
    assert run.stages == [(FINAL, [Point(8e-5, 0.1, 0.1, epochs) for epochs in (25, 50, 100)])]
    assert choices[-1] == {"lr": 8e-5, "weight_decay": 0.1, "drop_path": 0.1}


def counts(space):
    return [(stage, len(points)) for stage, points in planned_stages(space)]


def test_a_plan_leaves_out_what_ran_before():
    # One of the final runs is drop path's best; from scratch also drop path 0 is the grid's best.
    assert counts(PRETRAINED) == [(GRID, 9), (DROP_PATH, 4), (FINAL, 2)]
    assert counts(RANDOM) == [(GRID, 9), (DROP_PATH, 3), (FINAL, 2)]
    assert counts(replace(PRETRAINED, lrs=(1e-4,), weight_decays=(0.1,))) == [
        (DROP_PATH, 4),
        (FINAL, 2),
    ]


def test_the_largest_grid():
    assert most_trials(PRETRAINED) == 36
    assert most_trials(replace(PRETRAINED, lrs=(1e-4,))) == 6
    assert most_trials(replace(PRETRAINED, max_extensions=0)) == 9
