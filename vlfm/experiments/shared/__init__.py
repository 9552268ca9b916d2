"""What experiments share; each module beside this folder is an experiment."""
