"""Published data sets as tracks or episodes: one file for each layout. Choosing frames belongs in `sampler`."""
