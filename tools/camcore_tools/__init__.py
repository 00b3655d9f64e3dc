"""Command-line tools around camcore."""
