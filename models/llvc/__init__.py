"""LLVC: the waveform-to-waveform converter of "Low-latency Real-time Voice Conversion on CPU"."""
