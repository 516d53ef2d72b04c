"""Compare a topology with its broker and its supervisor, and say what apply would do."""

from feedbus.plan.changes import Change, Draining, Evenness, Plan, RingChange, Watchers, Work

__all__ = ["Change", "Draining", "Evenness", "Plan", "RingChange", "Watchers", "Work"]
