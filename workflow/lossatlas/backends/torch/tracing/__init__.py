"""Graphs of tensor operations: traced, rewritten, split, fused."""
