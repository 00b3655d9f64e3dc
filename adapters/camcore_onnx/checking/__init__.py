"""Prove that two models are the same: outputs, best class and maps; in a process of its own, with limits."""
