"""What a run leaves behind: its folder, metrics, weights, summary, and the console."""
