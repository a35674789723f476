"""Everything that touches verl's internals. Tensors, text and plain Python stay outside of this package."""
