"""Features of a frozen encoder, and what they are good for: probe, neighbours, comparison."""
