"""Index builders, one module per back end."""
