"""The operating-system process: signals, forks, locks and files, and its supervisor."""
