"""Publish the messages of [schedules] once for each time, also with several hosts or restarts.

To *fire* a schedule means to publish its message. A *moment* is a time that its cron expression
matches.
"""
