"""Figures: reconstructions, curves, charts."""
