"""What a process does that a test forks."""

# Whether it ignores garbage that it inherits. Off in the test of worker processes, which must.
KEEP_GARBAGE = True
