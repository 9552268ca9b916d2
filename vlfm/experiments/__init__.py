"""The paper's experiments and ours, on a finished run. Each is a module: `run(run, output)` writes its files.

One that trains has `run_part` as well, a job for each network. What they share is in `shared/`; `names.py` lists them.
"""
