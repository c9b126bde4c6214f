"""The paper's ablation on synthetic scenes: which parts of the training make a model localize from its supports."""
