"""Adapters, against references that know nothing of ours."""
