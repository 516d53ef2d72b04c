"""The reference application's handlers: one file a kind of message."""
