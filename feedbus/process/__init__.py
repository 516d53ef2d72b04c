"""The process in the operating system: signals, forks, threads, locks, files, supervisor."""
