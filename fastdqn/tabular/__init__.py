"""The Q-table: observations cut into cells, a number for each cell and action, Q-learning."""
