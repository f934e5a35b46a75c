"""Shared parts of the methods that adapt a network to one image: reversible steps, caching, loss."""
