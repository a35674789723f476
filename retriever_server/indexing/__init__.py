"""Index builders, one per back end."""
