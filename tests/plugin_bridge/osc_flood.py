"""Floods an OSC server on this computer: for each line, "hostile" or "valid", 8,000 packets a second for two seconds."""

import os
import random
import socket
import sys
import time

from plugin_bridge.osc_packets import encode

RATE, SECONDS = 8000, 2.0

os.nice(19)  # a flood comes from another computer: here it takes what is left
valid = [encode("/vc/pitch", (float(n - 12),)) for n in range(24)] + [encode("/vc/mix", (n / 10,)) for n in range(11)]
# Two in five make sense.
hostile = [random.randbytes(60) for _ in range(50)] + [encode(f"/{'*' * 28}x", (1.0,))] + valid
target = ("127.0.0.1", int(sys.argv[1]))
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
    for line in sys.stdin:
        packets = valid if line.strip() == "valid" else hostile
        begun, sent = time.monotonic(), 0
        while (elapsed := time.monotonic() - begun) < SECONDS:
            while sent < RATE * elapsed:
                client.sendto(random.choice(packets), target)
                sent += 1
            time.sleep(0.002)
        print(sent, flush=True)
