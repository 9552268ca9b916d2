"""The subcommands of `vlfm`, a module a group: the options of each beside what it calls."""
