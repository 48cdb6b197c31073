"""The command line: one file per group, loaded when it is called."""
