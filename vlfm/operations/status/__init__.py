"""How far a run has come, read from the files it leaves. Nothing is written, locked or waited for."""
