"""Hundreds of thousands of pictures: decoded in processes, explained in batches, written to shards as they come."""
