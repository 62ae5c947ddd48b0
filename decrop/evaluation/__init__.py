"""Certified accuracy, comparisons and plots."""
