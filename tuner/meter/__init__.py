"""What a run costs: events, live memory, transfers, cache use, seconds."""
