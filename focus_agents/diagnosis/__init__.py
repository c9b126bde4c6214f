"""Examine whether a model, a data set and a prompt fit together, before you spend hours on them: `focus doctor`.

`examination` runs all checks in their order, and each check writes a section of `findings`. `pictures` and `sheet` show
the images as the model sees them, `prompt` and `prompt_page` the prompt, `units` the answer, and `costs` time and
memory. `parity` checks that the ways to compute an answer agree.
"""
