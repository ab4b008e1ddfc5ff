"""What the knobs, and the meter itself, cost on this machine: measured, printed, written."""
