"""Databases by ADBC: connections, a store for the state of a job, and a store whose parts are rows of a table."""
