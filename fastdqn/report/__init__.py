"""Plots, HTML reports and videos of finished runs."""
