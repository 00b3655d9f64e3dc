"""What a graph is made of, and what it computes."""
