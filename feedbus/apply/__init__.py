"""Carry out a plan while the system runs; an interrupted apply is completed by the next one."""

from feedbus.apply.steps import Supervisor, apply, exclusive

__all__ = ["Supervisor", "apply", "exclusive"]
