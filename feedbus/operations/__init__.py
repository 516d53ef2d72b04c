"""The operations process of a project: metrics, health, queue depths, and a page for them."""
