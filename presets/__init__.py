"""Data: voice packs, presets, the demo phrase."""
