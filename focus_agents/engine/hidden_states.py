"""Observe the hidden states of a language model layer by layer during its computation; the observer keeps its part."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from focus_agents.models.adapters import model_parts

See = Callable[[int, torch.Tensor], None]


@contextlib.contextmanager
def seen_states(model: Any, see: See) -> Iterator[None]:
    """Show the hidden states of each forward pass within the context.

    Args:
        model: A model of a known family, wrapped or not.
        see: Called with the number of layers behind a state, and the state, [N, P, H] with its gradient: 0 is the
            embedding, with the pictures' features in it, and the last is the state before the final norm.
    """

    def show_input(number: int) -> Any:
        def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            see(number, args[0] if args else kwargs["hidden_states"])

        return hook

    def show_output(_: Any, args: tuple[Any, ...], output: Any) -> None:
        see(len(layers), output[0] if isinstance(output, tuple) else output)

    layers = model_parts(model).layers
    # A layer's input, since some families add to the output of the layer before it.
    handles = [
        layer.register_forward_pre_hook(show_input(number), with_kwargs=True) for number, layer in enumerate(layers)
    ]
    handles.append(layers[-1].register_forward_hook(show_output))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
