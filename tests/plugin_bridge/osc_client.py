"""Sends what it is told, a voice and a pitch a line, to an OSC server on this computer, by python-osc's own client."""

import sys

from pythonosc.udp_client import SimpleUDPClient

client = SimpleUDPClient("127.0.0.1", int(sys.argv[1]))
for line in sys.stdin:
    voice, pitch = line.split()
    client.send_message("/vc/voice", voice)
    client.send_message("/vc/pitch", float(pitch))
