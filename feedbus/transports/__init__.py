"""Kombu transports for the embedded broker and the broker in memory."""
