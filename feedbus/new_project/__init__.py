"""The files of a new project: what `feedbus init` writes."""

from feedbus.new_project.creation import Created, create

__all__ = ["Created", "create"]
