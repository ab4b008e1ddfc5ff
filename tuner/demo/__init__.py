"""The demo model: the small world it draws, how it is trained, and how well it does."""
