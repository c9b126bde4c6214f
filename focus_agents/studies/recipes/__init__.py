"""Recipes: files of commands that are run one after the other, and their estimated cost."""
