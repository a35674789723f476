"""The retrieval server: speed under load, what it costs beyond its library, and what it finds."""
