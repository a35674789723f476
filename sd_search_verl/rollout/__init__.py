"""Rollouts: their type, the agent loop as a plain coroutine, and the client of the retrieval server."""
