"""Where a run happens. One file an executor; `local.py` starts it on this machine."""
