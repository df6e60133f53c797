"""From the bytes of a file to its pixels as they are stored, one file for each kind of file."""
