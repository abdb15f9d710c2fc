"""The model: what it is made of, by which names, and how it describes itself."""
