"""The cost model of a step finds the costs behind synthetic step times, and keeps its head."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.scheduling.steptime import ExpertShape, Load, StepTime

SHAPE = ExpertShape(32, 4)
A, W, B, C = 4e-3, 0.4e-3, 0.15e-3, 2e-8  # of the made-up machine: seconds a step, expert, row, position


def truth(load: Load) -> float:
    """What a step takes on it."""
    return A + W * SHAPE.distinct(load.tokens) + B * load.tokens + C * load.context


def traffic(seed: int) -> Callable[[], Load]:
    """Steps as they come: streams alone, or with a chunk of a prompt."""
    chance = random.Random(seed)

    def draw() -> Load:
        load = Load()
        for _ in range(chance.randint(1, 16)):
            load = load.plus(chance.randint(100, 2000), 1)
        return load.plus(chance.randint(0, 2000), chance.randint(1, 500)) if chance.random() < 0.6 else load

    return draw


def trained(steps: int, time: Callable[[Load], float], seed: int = 1) -> StepTime:
    model, draw = StepTime(SHAPE), traffic(seed)
    for _ in range(steps):
        load = draw()
        model.learn(load, time(load))
    return model


def worst(model: StepTime, time: Callable[[Load], float] = truth) -> float:
    """Largest relative error over other traffic."""
    draw = traffic(99)
    loads = [draw() for _ in range(200)]
    return max(abs(model.predict(load) / time(load) - 1) for load in loads)


def test_a_load_adds_up_rows_and_the_positions_they_attend_to() -> None:
    """A row at position p attends to p + 1 positions, however rows are grouped."""
    assert Load().plus(10, 3) == Load(3, 11 + 12 + 13)
    assert Load().plus(10, 1).plus(11, 2) == Load().plus(10, 3)


def test_expected_experts_grow_from_the_choice_of_one_token_to_all() -> None:
    """One token visits top_k experts, many visit nearly all, a model without experts none."""
    assert SHAPE.distinct(1) == pytest.approx(4)
    assert [SHAPE.distinct(n) for n in (1, 2, 8, 64)] == sorted(SHAPE.distinct(n) for n in (1, 2, 8, 64))
    assert 31.9 < SHAPE.distinct(64) <= 32
    assert ExpertShape(0, 1).distinct(100) == 0


def test_exact_times_are_learned_exactly_enough() -> None:
    """Without noise every load is predicted within 3 % after 100 steps."""
    assert worst(trained(100, truth)) < 0.03


def test_noise_and_outliers_do_not_carry_it_away() -> None:
    """With 10 % noise and one step in 25 taking ten times as long, predictions stay within 15 %."""
    chance = random.Random(3)

    def noisy(load: Load) -> float:
        return truth(load) * max(0.5, chance.gauss(1.0, 0.1)) * (10 if chance.random() < 0.04 else 1)

    assert worst(trained(400, noisy)) < 0.15


@pytest.mark.parametrize("factor", [2.5, 0.4])
def test_a_machine_that_changes_its_speed_is_learned_anew(factor: float) -> None:
    """After a lasting change of all costs the model predicts within 15 % after 200 steps."""
    model, draw = trained(200, truth), traffic(5)
    for _ in range(200):
        load = draw()
        model.learn(load, factor * truth(load))
    assert worst(model, lambda load: factor * truth(load)) < 0.15


def test_one_slow_step_moves_predictions_by_little() -> None:
    """A single step of a hundred times its time changes no prediction by more than 5 %."""
    model = trained(200, truth)
    model.learn(Load(20, 9000), 100 * truth(Load(20, 9000)))
    assert worst(model) < 0.05


def test_decoding_for_long_does_not_wear_out_what_prompts_cost() -> None:
    """After thousands of steps of eight streams a prompt's cost is still predicted within 10 %."""
    model = trained(200, truth)
    chance = random.Random(4)
    streams = Load()
    for position in range(8):
        streams = streams.plus(500 + position, 1)
    for _ in range(5000):
        model.learn(streams, truth(streams) * chance.gauss(1.0, 0.05))
    prompt = streams.plus(0, 300)
    assert abs(model.predict(prompt) / truth(prompt) - 1) < 0.1


def test_the_first_step_of_a_size_is_passed_over() -> None:
    """A first step that only warmed memory up leaves no trace; nothing is predicted before a second."""
    model = StepTime(SHAPE)
    assert not model.learn(Load(8, 800), 5.0)
    assert model.predict(Load(8, 800)) == 0
    assert model.learn(Load(8, 808), truth(Load(8, 808)))
    assert model.predict(Load(8, 808)) == pytest.approx(truth(Load(8, 808)), rel=0.01)


TIMES = st.floats(1e-6, 1e3)
LOADS = st.builds(Load, st.integers(1, 8192), st.integers(1, 10**8))


@given(st.lists(st.tuples(LOADS, TIMES), max_size=60), LOADS, LOADS)
def test_whatever_is_seen_costs_are_never_negative(seen: list[tuple[Load, float]], one: Load, more: Load) -> None:
    """After any history coefficients are finite and not negative, so a larger step is never predicted to be faster."""
    model = StepTime(SHAPE)
    for load, seconds in seen:
        model.learn(load, seconds)
    assert all(0 <= value < float("inf") for value in model.coefficients)
    together = Load(one.tokens + more.tokens, one.context + more.context)
    assert model.predict(together) >= model.predict(one) >= 0
