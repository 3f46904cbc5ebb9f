"""What the small trainings of the song engine's tests have in common: which takes they draw."""

DRAWN = {"seed": 3, "batch": 4, "helpers": 0.25, "shifted": 0.3}
