"""What a generation will cost: the engine itself, run on tensors that have shapes and no bytes."""
