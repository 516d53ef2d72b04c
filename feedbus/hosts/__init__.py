"""The running hosts of a project, and the assignment of shards to the hosts."""
