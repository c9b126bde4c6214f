"""The commands, `focus NAME`: one file each, which holds arguments, checks and one call.

`main.py` lists them and starts one of them. The work of a command lies in the folder that the command calls, not here.
"""

import time

STARTED = time.perf_counter()
"""When the command was started, before it has imported anything."""

from focus_agents.processes.compiler_cache import make_no_cache  # noqa: E402  (the clock is started first)
from focus_agents.processes.threads import wait_passively  # noqa: E402

# Here: however a command is started, this is before it imports torch.
wait_passively()
make_no_cache()
