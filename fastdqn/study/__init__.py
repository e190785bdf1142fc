"""Study: many seeds and variants of a training, as runs of one folder, and their comparison."""
