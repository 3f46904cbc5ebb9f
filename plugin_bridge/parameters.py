"""The parameters of a converter: the one table from which the API, the command line, OSC and presets are made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from plugin_bridge.protocol import number


@dataclass(frozen=True)
class Parameter:
    """One control.

    Attributes
    ----------
    kind : "number", "switch" or "voice"
        A voice is a name, or names with weights.
    unit : str
        Plural, as it stands in a sentence; empty for plain ratios, switches and voices.
    minimum, maximum : float
        Both included; 0 and 1 for switches, without meaning for a voice.
    osc : str
        Address of the message that sets it.
    """

    name: str
    kind: Literal["number", "switch", "voice"]
    unit: str
    minimum: float
    maximum: float
    default: float | bool | str
    description: str

    @property
    def osc(self) -> str:
        return f"/vc/{self.name.split('_')[0]}"  # without the unit: the address's description has it

    def number(self, value: object) -> float:
        """`value` as a float within the range.

        Raises
        ------
        TypeError
            If it is no real number.
        ValueError
            If it is out of range or not finite.
        """
        if isinstance(value, bool):
            raise TypeError(f"{self.name} must be a number, got bool")
        given = number(self.name, value)
        if not (math.isfinite(given) and self.minimum <= given <= self.maximum):
            unit = f" {self.unit}" if self.unit else ""
            raise ValueError(f"{self.name} must be between {self.minimum:g} and {self.maximum:g}{unit}, got {given:g}")
        return given

    def switch(self, value: object) -> bool:
        """`value` as a bool; TypeError if it is not one."""
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{self.name} must be True or False, got {type(value).__name__}")
        return bool(value)


PARAMETERS: dict[str, Parameter] = {
    parameter.name: parameter
    for parameter in (
        Parameter("voice", "voice", "", 0, 1, "pjs", "Target voice, or a mix of voices of one pack by weights."),
        Parameter("pitch_shift", "number", "semitones", -24, 24, 0.0, "Pitch change of the converted voice."),
        Parameter("formant_shift", "number", "semitones", -12, 12, 0.0, "Size of the vocal tract; up is smaller."),
        Parameter("mix", "number", "", 0, 1, 1.0, "0 is the source, 1 the converted voice."),
        Parameter("gain_db", "number", "dB", -60, 24, 0.0, "Output gain."),
        Parameter("gate_db", "number", "dB", -90, 0, -90.0, "Source level below which the output is muted; -90 is off."),
        Parameter("bypass", "switch", "", 0, 1, False, "Source instead of output, at the same latency."),
    )
}
