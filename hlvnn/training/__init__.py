"""The only training loop, and what executes a run and writes its folder."""
