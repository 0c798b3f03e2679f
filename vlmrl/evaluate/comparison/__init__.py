"""The page of one evaluation, or of several side by side."""
