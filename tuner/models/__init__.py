"""What is run: checkpoints, where they are, how they load."""
