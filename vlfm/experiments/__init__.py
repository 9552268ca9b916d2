"""The paper's experiments on a finished run, a module each: `run(run, output)` writes a table, a figure and videos.

One that trains has `run_part` as well, a job for each network. What they share is in `shared/`; `names.py` lists them.
"""
