"""Derivatives of operators, by family; each module enters its own into the table."""
