"""What tests and benchmarks share: killed runs, and another library as an oracle."""
