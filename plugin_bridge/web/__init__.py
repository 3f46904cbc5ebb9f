"""The page of a live conversion: its server, which is a process of its own, and the files that a browser gets."""
