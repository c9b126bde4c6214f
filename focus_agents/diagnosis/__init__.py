"""Examine whether a model, a data set and a prompt fit together, before hours are spent on them: `focus doctor`.

`examination` runs all checks in their order, and each writes a section of `findings`: `pictures` and `sheet` what the
model sees, `prompt` and `prompt_page` what it reads, `units` what it answers, `costs` what that takes, `parity` whether
the ways to compute it agree.
"""
