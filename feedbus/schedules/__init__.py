"""Publish the messages of [schedules] once for each time, also with several hosts or restarts.

To *fire* a schedule means to publish its message. A *moment* of a schedule is a time that the cron
expression of the schedule matches.
"""
