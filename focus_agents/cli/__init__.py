"""The commands, `focus NAME`: one file each, which holds arguments, checks and one call.

`main.py` lists them and starts one of them. The work of a command lies in the folder that the command calls, not here.
"""

import time

STARTED = time.perf_counter()
"""When the command was started, before it has imported anything."""
