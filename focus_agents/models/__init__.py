"""Models by name, and the small offline one."""
