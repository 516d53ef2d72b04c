"""The hosts of a project: which of them are running, and which works on which shard."""
