"""An iteration shows one number of supports, which is drawn for it; an evaluation shows all."""

from __future__ import annotations

from pathlib import Path

from focus_agents.grpo.env_runner import GRPOEnvRunner
from focus_env.datasets.synthetic import SyntheticDataset
from focus_env.datasets.training import DrawnShots
from tests.focus_agents.grpo.runs import TEMPLATE, make_config


def test_the_runner_asks_with_the_number_of_the_iteration() -> None:
    scenes = SyntheticDataset(scenes="tracks", shots=4, image_size=56, num_episodes=5)
    drawn = DrawnShots(scenes, (1, 2, 4), seed=1)
    config = make_config(Path("tiny"), max_completion_tokens=2)
    config.environment(env_config={"dataset": drawn, "template": TEMPLATE})
    runner = GRPOEnvRunner(config=config, worker_index=0)
    shown = []
    for iteration in range(8):
        groups = runner.sample(jobs=[(0, 3), (1, 4)], iteration=iteration)
        supports = [[support.box for support in group.supports] for group in groups.values()]
        expected = [scenes.with_shots(index, drawn.shots_at(iteration)).support for index in (3, 4)]
        assert supports == [[exemplar.box for exemplar in support] for support in expected]
        shown.append(len(supports[0]))
    assert len(set(shown)) > 1
