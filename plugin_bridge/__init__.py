"""Neural voice and singing conversion where an audio effect sits."""
