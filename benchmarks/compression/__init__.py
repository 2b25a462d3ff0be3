"""What compression reaches: hand-written recipes, the search beside them, and distillation over several seeds."""
