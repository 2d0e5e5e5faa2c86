"""The identity task: what pays, and that seeds decide what is seen."""

from __future__ import annotations

import gymnasium
import pytest
from stable_baselines3.common.env_checker import check_env

from tasks.rl.environments import find_environment

NAME, BITS = "tasks.rl.identity:Identity-v0", "tasks.rl.identity:IdentityOfBits-v0"


def play(answer, seed: int) -> tuple[float, list[int]]:
    environment, total, sights, over = gymnasium.make(NAME), 0.0, [], False
    seen, _ = environment.reset(seed=seed)
    while not over:
        sights.append(int(seen))
        seen, reward, _, over, _ = environment.step(answer(seen))
        total += float(reward)
    return total, sights


@pytest.mark.parametrize("name", [NAME, BITS])
def test_it_is_an_environment_as_stable_baselines3_wants_it(name: str) -> None:
    find_environment(name)
    check_env(gymnasium.make(name).unwrapped, warn=False)


def test_of_several_bits_all_must_be_right() -> None:
    environment = gymnasium.make(BITS)
    seen, _ = environment.reset(seed=0)
    for wrong in (0, 1, 4, 0):
        answer = seen.copy()
        answer[:wrong] = 1 - answer[:wrong]
        seen, reward, *_ = environment.step(answer)
        assert reward == (wrong == 0)


def test_only_what_is_seen_pays() -> None:
    right, sights = play(lambda seen: seen, 0)
    assert right == len(sights) == 100
    assert play(lambda seen: (seen + 1) % 4, 0)[0] == 0
    assert play(lambda seen: 2, 0)[0] == sights.count(2) > 0
    assert right >= gymnasium.spec(NAME.partition(":")[2]).reward_threshold


def test_seeds_decide_what_is_seen() -> None:
    first, again, other = (play(lambda seen: 0, seed)[1] for seed in (0, 0, 1))
    assert first == again != other
    assert set(first) == {0, 1, 2, 3}
