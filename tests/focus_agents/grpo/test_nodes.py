"""Machines that die, raylet and all, on a real cluster of several raylets: the run's weights are the undisturbed ones.

Nothing is so small here that Ray would send it with its answer: every prompt lies in the store of its sampler's node.
"""

from __future__ import annotations

import dataclasses
import gc
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
from ray.cluster_utils import Cluster

from focus_agents.errors import TrainingError
from focus_agents.grpo import learner_group
from focus_agents.grpo.algorithm import GRPO
from focus_agents.grpo.learner_group import GRPOLearnerGroup
from focus_agents.grpo.references import PromptSplitter
from focus_agents.models.inputs import EncodedPrompt
from focus_agents.rollout.records import Completion, Generation, PromptReference, RolloutGroup
from tests.focus_agents.grpo import runs as grpo
from tests.focus_agents.grpo.runs import assert_equal, final_weights

NODE = {"num_cpus": 2, "resources": {"sampler": 1}}
"""Of each node but the driver's: one has a sampler and the learner, the other a sampler and a core left."""
HEAD = {"num_cpus": 0, "include_dashboard": False, "_system_config": {"health_check_period_ms": 500}}
"""The driver's: no cores to work on. Ray calls a node dead after five checks, with its own period after 15 s."""


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[Cluster]:
    """The driver's node and two others."""
    cluster = Cluster(initialize_head=True, head_node_args=HEAD)
    for _ in range(2):
        cluster.add_node(**NODE)
    ray.init(address=cluster.address, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def node_here(process: Any = None) -> str:
    return str(ray.get_runtime_context().get_node_id())


def end_node(cluster: Cluster, node_id: str) -> None:
    """Kill a node and all on it, and let a fresh one take its place."""
    (node,) = (node for node in cluster.worker_nodes if node.node_id == node_id)
    cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(**NODE)


def learner_node(algorithm: GRPO) -> str:
    (result,) = algorithm.learner_group.foreach_learner(node_here)
    return str(result.get())


def sampler_nodes(algorithm: GRPO) -> list[str]:
    return algorithm.env_runner_group.foreach_env_runner(node_here, local_env_runner=False)


def nodes_of(references: Sequence[PromptReference]) -> set[str]:
    """Nodes that have a prompt in their store; each has one somewhere."""
    found = ray.experimental.get_object_locations([reference.content for reference in references])
    assert all(place["node_ids"] for place in found.values())
    return {node for place in found.values() for node in place["node_ids"]}


def held() -> set[str]:
    """Ids of all objects that this process holds a reference to."""
    gc.collect()
    return {key.decode() for key in ray._private.worker.global_worker.core_worker.get_all_reference_counts()}


def group_of(side: int) -> RolloutGroup:
    completion = Completion("<answer>[1]</answer>", np.arange(9), np.zeros(9, np.float32), is_finished=True)
    prompt = EncodedPrompt(np.arange(side), np.ones((1, 2), int), {"pixel_values": np.zeros((side**2, 3), np.float32)})
    return RolloutGroup(3, Generation((completion,), prompt), np.zeros(1), ({},), ())


def test_what_the_driver_gets_does_not_grow_with_pictures() -> None:
    small, large = (PromptSplitter.split(group_of(side)) for side in (30, 200))
    assert len(pickle.dumps(small[0])) == len(pickle.dumps(large[0]))
    assert len(pickle.dumps(large[1])) > 40 * len(pickle.dumps(small[1]))
    assert [half.prompt_reference.num_tokens for half, _ in (small, large)] == [30, 200]


def test_an_episode_that_could_not_be_asked_has_no_prompt() -> None:
    failed = dataclasses.replace(group_of(3), generation=Generation(()))
    assert PromptSplitter.split(failed) == (failed, None)


def test_prompts_that_are_lost_again_and_again_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner_group, "find_lost", lambda learner, contents: [1])
    kept, lost = PromptReference(9, "kept"), PromptReference(9, "lost")
    parcel: Any = SimpleNamespace(references=[kept, lost])
    group: Any = SimpleNamespace(config=grpo.make_config(Path("tiny"), max_update_attempts=3), is_local=True)
    restored: list[Sequence[PromptReference]] = []
    with pytest.raises(TrainingError, match=r"^prompts: lost with their machine 3 times in a row.*newest checkpoint"):
        GRPOLearnerGroup._ensure_prompts(group, [parcel], restored.append)
    assert restored == [[lost]] * 3


@pytest.mark.ray
def test_nodes_that_die(policy_folder: Path, ray_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one update, the node of a sampler with prompts that are not learned from yet, and then the learner's, with the
    other sampler, its prompts, and the snapshot where it was made."""
    settings = {"rollout_batch_groups": 2, "micro_batch_groups": 5}
    expected = final_weights(grpo.make_config(policy_folder, **settings).build_algo(), num_iterations=2)

    config = grpo.make_config(policy_folder, num_env_runners=2, num_learners=1, **settings)
    algorithm = config.env_runners(custom_resources_per_env_runner={"sampler": 1}).build_algo()
    learners = algorithm.learner_group
    update, fetch = learners.update, learners._ensure_prompts
    restored: list[int] = []
    contents: set[str] = set()

    def update_without_prompts(*, training_data: Any, restore: Any, **kwargs: Any) -> Any:
        references = training_data.references
        places = nodes_of(references)
        assert node_here() not in places, "the driver's node has a prompt"
        (place,) = places - {learner_node(algorithm)}
        contents.update(reference.content.hex() for reference in references)
        assert contents <= held()
        end_node(ray_cluster, place)

        def restore_and_count(lost: Sequence[PromptReference]) -> None:
            restore(lost)
            restored.append(len(lost))
            contents.update(reference.content.hex() for reference in lost)

        return update(training_data=training_data, restore=restore_and_count, **kwargs)

    def fetch_to_a_dying_node(*args: Any) -> None:
        fetch(*args)
        if not learners.num_rebuilds:
            end_node(ray_cluster, learner_node(algorithm))

    with monkeypatch.context() as patch:
        patch.setattr(learners, "update", update_without_prompts)
        patch.setattr(learners, "_ensure_prompts", fetch_to_a_dying_node)
        algorithm.train()
    assert learners.num_rebuilds == 1
    assert len(restored) >= 2
    assert len(contents) == 5 + sum(restored), "groups of an iteration, and those that were sampled again"
    assert not contents & held(), "prompts that are learned from are still kept"
    assert_equal(final_weights(algorithm, num_iterations=1), expected)
