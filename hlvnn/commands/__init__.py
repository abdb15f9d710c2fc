"""What is typed: one file a command."""

import os

os.environ.setdefault("PYDANTIC_ERRORS_INCLUDE_URL", "0")  # a user's message needs no link
