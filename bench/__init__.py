"""Measurements behind the performance figures in the README."""
