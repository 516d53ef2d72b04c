"""Publish the messages of [schedules]: one firing a moment, also over hosts and restarts."""
