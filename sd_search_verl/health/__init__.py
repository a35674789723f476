"""Detect runs that collapse or diverge: pure functions of their metrics."""
