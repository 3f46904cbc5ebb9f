"""Signals as numpy arrays: blocks, resampling, smoothing, pitch, spectra. Knows no network."""
