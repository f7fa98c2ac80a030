"""What model code holds while it is recorded: proxies, their answers, constants, objects, and calls kept whole."""
