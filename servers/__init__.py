"""RabbitMQ, PostgreSQL and Prometheus for tests and benchmarks: private, on loopback."""
