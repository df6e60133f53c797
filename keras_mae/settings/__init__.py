"""The settings of each command, without anything heavy: flags, help, checks."""
