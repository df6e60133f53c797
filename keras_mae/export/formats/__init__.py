"""Export formats, one file each, found by name; nothing is imported before it is used."""
