"""Recipes: files of commands that are run one after the other, and what they cost by count."""
