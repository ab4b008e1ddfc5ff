"""The page: what a person touches in a browser. It reads the registry and never computes."""
