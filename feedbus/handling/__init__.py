"""What a handler is: its function, messages, parameters, resources, and what runs around it."""
