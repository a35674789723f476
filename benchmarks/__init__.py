"""Programs that measure, and their results as CSV with a device column."""
