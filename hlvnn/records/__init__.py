"""What a run and a sweep leave, and how it is read. No Ray, no plots, no training."""
