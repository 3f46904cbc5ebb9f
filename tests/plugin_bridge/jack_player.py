"""Plays a .npy file in a loop into a JACK server, slowly enough for a recorder while the server freewheels."""

import sys
import time

import numpy as np
import sounddevice

samples = np.load(sys.argv[1])
position = 0


def play(outdata, frames, when, status):  # type: ignore[no-untyped-def]
    global position
    outdata[:, 0] = np.take(samples, np.arange(position, position + frames), mode="wrap")
    position += frames
    time.sleep(float(sys.argv[2]))


with sounddevice.OutputStream(device="system", samplerate=48_000, blocksize=256, channels=1, callback=play):
    print("playing", flush=True)
    time.sleep(3600)
