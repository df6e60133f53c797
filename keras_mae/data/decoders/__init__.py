"""From the bytes of a file to its pixels as they are stored: one file here for each family of formats."""
