"""The command line: thin, one file per command. Heavy modules are imported inside the commands."""
