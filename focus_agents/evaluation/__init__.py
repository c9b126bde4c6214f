"""Evaluations: several policies on several data sets, at several numbers of shots, with a table of the outcome."""
