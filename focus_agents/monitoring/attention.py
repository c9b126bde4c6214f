"""Draw where a trained policy looks: pictures of a few validation episodes at the end of a run."""

from __future__ import annotations

from focus_agents.errors import PolicyError
from focus_agents.monitoring.recorder import Recorder
from focus_agents.policies.focus import FocusPolicy
from focus_agents.runs.folder import RunDirectory
from focus_env.rendering import render_localization, write_picture
from focus_env.types import EpisodeDataset, ImageArray

NUM_EPISODES = 4
MOST_BYTES = 256 * 2**20
"""Of the weights of a policy that is loaded for this, on the CPU, beside what has trained it; larger ones are not."""


def keep_attention(run: RunDirectory, recorder: Recorder, episodes: EpisodeDataset, position: int) -> None:
    """Draw the attention of the policy in `checkpoints/final` into `samples/`, and onto every sink.

    Args:
        run: The run's folder.
        recorder: Shows pictures, and says what cannot be written.
        episodes: The validation data, of which the first ones are drawn.
        position: The iteration or step at the end.
    """
    final = run.checkpoints / "final"
    if sum(file.stat().st_size for file in final.glob("*.safetensors")) <= MOST_BYTES:
        recorder.attempt("attention pictures", lambda: _keep(run, recorder, episodes, position))


def _keep(run: RunDirectory, recorder: Recorder, episodes: EpisodeDataset, position: int) -> None:
    try:
        policy = FocusPolicy.from_pretrained(str(run.checkpoints / "final"))
        pictures = {index: draw_attention(policy, episodes, index) for index in range(min(NUM_EPISODES, len(episodes)))}
    except Exception as error:  # whatever it is, the training is done
        raise PolicyError(f"{type(error).__name__}: {error}") from error
    for index, picture in pictures.items():
        recorder.show(f"attention/{index}", picture, position)
        write_picture(run.path / "samples" / f"attention_{index}.png", picture)


def draw_attention(policy: FocusPolicy, episodes: EpisodeDataset, index: int) -> ImageArray:
    """Draw the answer to an episode, and what supports and query were looked at; [H, W, 3] uint8."""
    episode = episodes[index]
    supports = [(exemplar.frame.image(), exemplar.box) for exemplar in episode.support]
    query = episode.query_frame.image()
    found = policy.locate(supports, query, with_attention=True)
    return render_localization(supports, query, found.box, found.attention)
