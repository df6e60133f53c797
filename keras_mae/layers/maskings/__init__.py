"""The maskings, one file each, found by name with `keras_mae.registry`."""
