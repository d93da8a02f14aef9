"""Speed against peers and the limits of the machine: see `engine/bench/run.py`."""
