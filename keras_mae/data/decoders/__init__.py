"""From the bytes of a file to its pixels as stored: one file here for each family of formats."""
