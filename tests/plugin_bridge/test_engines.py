"""The table of the LLVC engines."""

import json
from pathlib import Path

import pytest
from packs import delay_model, voice_card
from typer.testing import CliRunner

from models.pack import PackManifest, write_pack
from plugin_bridge.cli import app
from plugin_bridge.engines import COLUMNS, trained_voice

pytest.importorskip("torch")


def test_the_table_of_all_variants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes and latencies are the paper's, and a trained voice stands in its row."""
    for name, cosine in (("some", 0.7), ("best", 0.8)):
        about = {"kind": "llvc-nc, taught by pjs", "quality": {"speaker_cosine": cosine, "dnsmos_overall": 3.1}}
        card = voice_card(name).model_copy(update=about)
        manifest = PackManifest(title=name, voices=[card], sample_rate=48_000, licence="CC0-1.0")
        write_pack(tmp_path / f"{name}.voice", manifest, {"stream.onnx": delay_model({name: 1.0}).SerializeToString()})
    monkeypatch.setenv("PLUGIN_BRIDGE_VOICES", str(tmp_path))
    assert trained_voice("llvc-nc") == ("best", {"speaker_cosine": 0.8, "dnsmos_overall": 3.1})
    assert trained_voice("llvc-hfg") == (None, {})

    result = CliRunner().invoke(app, ["bench", "--engines", "--seconds", "1", "--out", str(tmp_path / "engines.json")])
    assert result.exit_code == 0, result.stderr
    rows = json.loads((tmp_path / "engines.json").read_text())
    told = {row["engine"]: (row["parameters"], row["latency_ms"]) for row in rows}
    # Without the prenet 12 blocks of two convolutions of 3 weights and a bias are missing; in_conv, 512 x 144, and out_conv,
    # 512 x 320, are four times as wide at stride 64.
    assert told == {
        "llvc": (3_258_720, pytest.approx(14)),
        "llvc-nc": (3_258_720 - 96, pytest.approx(14)),
        "llvc-hfg": (3_258_720, pytest.approx(14)),
        "llvc-48k": (3_258_720 - 96 + 512 * 3 * 48 + 512 * 5 * 48, pytest.approx(12)),
    }
    for row in rows:
        assert min(row["reference"], row["float32"], row["int8"], *row["times_reference"], *row["p99_of_chunk"]) > 0
        # The bundled ones, the better of two where there are two, and none against HiFi-GAN's discriminators.
        voices = {"llvc-nc": "best", "llvc": "pjs-llvc", "llvc-48k": "pjs-llvc-48k", "llvc-hfg": None}
        assert row["voice"] == voices[row["engine"]]
        assert row["int8_snr_db"] > 20
    assert all(column in " ".join(result.stdout.split()) for column in COLUMNS)
    assert "not trained" in result.stdout
