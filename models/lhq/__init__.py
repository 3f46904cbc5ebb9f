"""LHQ-SVC, the song engine: features, content, condition, diffusion to a log-mel spectrogram, vocoder; 40 kHz, 100 fps."""
