"""Safe file access: atomic and durable writes, bounded reads, the run folder and its lock."""
