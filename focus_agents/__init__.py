"""FOCUS's agents: everything with weights. Importing this package starts nothing and loads no model."""
