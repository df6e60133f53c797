"""One function a command, and the report's jobs."""
