"""Stage 1: supervised fine-tuning with attention loss, in Ray Train's workers."""
