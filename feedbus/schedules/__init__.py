"""Publish the messages of [schedules] once for each time, also with several hosts or restarts."""
