"""The table of parameters, and the properties made from it."""

import math

import numpy as np
import pytest

from plugin_bridge import VoiceConverter
from plugin_bridge.parameters import PARAMETERS

NUMBERS = {
    "pitch_shift": (-24, 24, "semitones"),
    "formant_shift": (-12, 12, "semitones"),
    "mix": (0, 1, ""),
    "gain_db": (-60, 24, "dB"),
    "gate_db": (-90, 0, "dB"),
}


ADDRESSES = ["/vc/voice", "/vc/pitch", "/vc/formant", "/vc/mix", "/vc/gain", "/vc/gate", "/vc/bypass"]


def test_the_table_has_every_parameter_of_the_converter() -> None:
    assert list(PARAMETERS) == ["voice", "pitch_shift", "formant_shift", "mix", "gain_db", "gate_db", "bypass"]
    assert [parameter.osc for parameter in PARAMETERS.values()] == ADDRESSES
    converter = VoiceConverter("delay512")
    for name, parameter in PARAMETERS.items():
        assert parameter.name == name
        assert parameter.description
        if name != "voice":
            assert getattr(converter, name) == parameter.default


@pytest.mark.parametrize("name", NUMBERS)
def test_both_ends_of_a_range_are_good_and_beyond_is_refused_by_name(name: str) -> None:
    low, high, unit = NUMBERS[name]
    converter = VoiceConverter("delay512")
    for good in (low, high, np.float32(low), np.int64(high)):
        setattr(converter, name, good)
        value = getattr(converter, name)
        assert value == good
        assert type(value) is float
    for bad in (low - 0.001, high + 0.001, math.nan, math.inf, 10**400, -(10**400)):
        with pytest.raises(ValueError, match=rf"^{name} must be between {low} and {high}( {unit})?, got "):
            setattr(converter, name, bad)
        with pytest.raises(ValueError, match=name):
            VoiceConverter("delay512", **{name: bad})
    assert getattr(converter, name) == high, "a refused value changes nothing"


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("bad", ["1", None, True, 1j, [0.0]])
def test_a_number_must_be_a_number(name: str, bad: object) -> None:
    with pytest.raises(TypeError, match=rf"^{name} must be a number, got {type(bad).__name__}$"):
        setattr(VoiceConverter("delay512"), name, bad)


@pytest.mark.parametrize("bad", [1, 0.0, "yes", None])
def test_a_switch_must_be_a_bool(bad: object) -> None:
    with pytest.raises(TypeError, match=r"^bypass must be True or False, got "):
        VoiceConverter("delay512").bypass = bad  # type: ignore[assignment]


def test_unknown_attributes_and_arguments_are_refused() -> None:
    with pytest.raises(AttributeError):
        VoiceConverter("delay512").pitch = 3  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        VoiceConverter("delay512", pitch=3)  # type: ignore[call-arg]
