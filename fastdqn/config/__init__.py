"""Options of a run: their schema, limits, conflicts and presets."""
