"""Recipes: one paper or one task, one short file each."""
