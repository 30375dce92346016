"""Clinical tables: what their columns mean, how they are split, and how they become numbers."""
