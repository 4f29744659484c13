"""Asynchronous, high-throughput batch inference."""
