"""The operations process: metrics, health checks, queue depths, and a page that shows them."""
