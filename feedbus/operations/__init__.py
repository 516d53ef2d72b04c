"""The operations process of a project: metrics, health, what waits, and a page that shows them."""
