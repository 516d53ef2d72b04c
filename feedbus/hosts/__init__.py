"""The hosts of a project: which are there, and which of them works on which shard."""
