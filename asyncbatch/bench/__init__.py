"""What an endpoint can take: load, statistics, search for the best setting, results with a versioned schema."""
