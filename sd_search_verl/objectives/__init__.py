"""Other methods of the family, each a switch of the configuration: one formula a file."""
