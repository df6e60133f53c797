"""Whole runs: what the scripts do, as functions of one settings object."""
