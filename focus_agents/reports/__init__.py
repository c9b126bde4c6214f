"""Tables, documents and curves for people. The figures are computed where they belong and come here finished."""

import logging

# Before anything here imports matplotlib, which says of its first start on a machine that it takes a moment.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
