"""The reference application's handlers: one file for each kind of message."""
