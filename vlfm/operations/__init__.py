"""For who runs it: is this machine ready (`doctor`), how far has a run come (`status`)."""
