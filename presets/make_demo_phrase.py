"""Makes the demo phrase, `demo_phrase.flac`: two lines of a song, sung by the synthetic singer.

python -m presets.make_demo_phrase
"""

from __future__ import annotations

from pathlib import Path

from pedalboard.io import AudioFile

from dsp.singer import Note, Song, sing

DEMO_PHRASE = Path(__file__).with_name("demo_phrase.flac")
SAMPLE_RATE = 48_000
BEAT_S = 60 / 92

# Beats, pitch (MIDI), consonant, vowel. A minor, A3 to A4, a tenor's and an alto's range alike; the syllables mean
# nothing and hold one of each kind of sound: fricatives, plosives, nasals, liquids, all five vowels, leaps and steps.
PHRASE = [
    (0.5, 57, "", ""),
    (1.0, 57, "s", "o"),
    (0.5, 60, "l", "a"),
    (0.5, 62, "r", "e"),
    (1.5, 64, "m", "i"),
    (0.5, 62, "n", "o"),
    (1.0, 60, "v", "a"),
    (1.5, 57, "l", "u"),
    (0.75, 57, "", ""),
    (0.5, 64, "s", "a"),
    (0.5, 67, "k", "i"),
    (1.5, 69, "t", "a"),
    (0.5, 67, "n", "e"),
    (0.5, 64, "d", "o"),
    (0.5, 62, "sh", "i"),
    (0.5, 60, "y", "a"),
    (2.5, 57, "r", "a"),
    (0.75, 57, "", ""),
]


def sing_demo_phrase() -> Song:
    """The phrase with its exactly known pitch."""
    notes = [Note(midi, beats * BEAT_S, vowel, consonant) for beats, midi, consonant, vowel in PHRASE]
    return sing(notes, SAMPLE_RATE, tract=1.06, seed=7)


def main() -> None:
    """Write the file."""
    with AudioFile(str(DEMO_PHRASE), "w", SAMPLE_RATE, 1, bit_depth=16) as file:
        file.write(sing_demo_phrase().audio)


if __name__ == "__main__":
    main()
