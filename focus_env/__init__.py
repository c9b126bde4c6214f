"""FOCUS's environment: in-context localization episodes, served and scored."""

__version__ = "0.1.0"
