"""The client of retrieval servers: requests, retries, several servers, and checks of what they serve."""
