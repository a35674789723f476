"""Everything that touches verl's internals. Tensors, text and plain Python stay outside of this package."""

# First: verl loads the plugin, which imports these modules; one that imports verl itself would then be half made.
import verl  # noqa: F401
