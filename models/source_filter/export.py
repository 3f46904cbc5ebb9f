"""The converter as one streaming ONNX graph: pitch tracking, features, network and synthesis, all state explicit.

Time runs like this. A step takes the samples [512 c, 512 c + 512). Its two hops are centred on 512 c and 512 c + 256: there the
feature windows peak, there the tracker's pitch belongs, there the synthesis frames are centred, which reach one hop to each
side. So what is complete after the step is [512 c - 256, 512 c + 256): look-ahead 256 samples.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic  # type: ignore[import-untyped]
from torch import Tensor, nn

from dsp.equaliser import BANDS as EQUALISER_BANDS
from dsp.equaliser import gains_db
from models.graph import METADATA_KEY
from models.source_filter.features import (
    ANALYSIS_BINS,
    BANDS,
    CHUNK,
    ENERGY_FLOOR,
    HOP,
    SAMPLE_RATE,
    WINDOW,
    RunningMean,
    analysis_window,
    mel_matrix,
)
from models.source_filter.fourier import InverseRealDFT, RealDFT, bin_order, counted, hermitian_weight
from models.source_filter.network import Block, Encoder, Network, prosody
from models.source_filter.offset import OffsetFilter
from models.source_filter.synthesis import (
    BINS,
    FFT,
    GAINS,
    NOISE_FRAMES,
    gain_centres_hz,
    hann,
    harmonics_below_nyquist,
    minimum_phase_matrix,
    noise_spectra,
    pulse_train,
    voicing_gain,
    warp_gains,
)
from models.source_filter.tracker import DECIMATION, DECIMATION_TAPS, PitchTracker

OPSET = 17
START_PITCH_HZ = 150.0
LARGEST_CHANGE_HZ = 12.0  # a larger leap in one hop is a new note, not a glide
LOW_HZ = (60.0, 160.0)  # of the pitch that is heard: from all to nothing of what low voices need
LOWEST_HZ, HIGHEST_HZ = 30.0, 4_000.0  # of the excitation, whatever the shift
TIMBRE_HZ = (60.0, 1_100.0)  # pitches that the decoder heard at all
# Natural-log gain at most +35 dB over the loudness: no network error gets louder than that.
GAIN_LIMIT = 4.0


# A network trained on spectral distances answers with averages, and averages of formants are flat. What it gives is drawn
# away from its own smoothed shape again (global variance compensation, after Toda et al. 2007), half as far since there is an
# adversarial stage. On nine unseen sources 0.25 against 0 gave the speaker cosine 0.813 against 0.794 (pjs) and cost 0.04 to 0.09
# of DNSMOS; on the noise's filter it only cost quality.
SHARPENING = 0.2
SHARPENING_BANDS = 6.0  # standard deviation of the smoothing, in bands: about a formant's distance from the next

# What is quieter than this, under the loudest that was heard lately, comes out quieter still, two dB for each: the noise between
# phrases. Breath and the softest consonants lie above. The loudest is forgotten within some ten seconds, and never counts less
# than EXPANDED_FROM, so that a take's first pause, too, stays quiet. All in natural logarithms of amplitude, as the loudness is.
EXPAND_BELOW = 32.0 * math.log(10) / 20
EXPANDED_FROM = -5.75  # speech at a usual level peaks near -2
LOUDEST_MEMORY = math.exp(-CHUNK / SAMPLE_RATE / 10.0)
LOUDEST_RISE = 0.1  # in a chunk, 80 dB a second: a syllable is followed, and a bump of the microphone is over before

# Bins come in groups of 32: six reach the 8 kHz of the features, sixteen all but the Nyquist frequency itself.
ANALYSIS_GROUPS = 6
GROUPS = 16
NOTHING = 1e-30  # the weight of a bin that is to count nothing, where its logarithm is wanted


def constant(values: NDArray[np.float64] | NDArray[np.float32]) -> nn.Parameter:
    """A table of the graph, float32."""
    return nn.Parameter(torch.tensor(values, dtype=torch.float32), requires_grad=False)


def phase_basis() -> NDArray[np.float64]:
    """[5, 3 * HOP]: (phase at the start, f0 at the start and at the ends of three hops) -> phase in cycles at each sample.

    The sum of a frequency that runs on a straight line through each hop.
    """
    done = np.arange(HOP) + 1.0
    towards = np.cumsum(np.arange(HOP) / HOP)  # what the end of the hop counts in the sum
    basis = np.zeros((5, 3 * HOP))
    basis[0] = 1.0
    for hop in range(3):
        inside = slice(hop * HOP, (hop + 1) * HOP)
        if hop:
            basis[:, inside] = basis[:, hop * HOP - 1 : hop * HOP]
        basis[hop + 1, inside] += (done - towards) / SAMPLE_RATE
        basis[hop + 2, inside] += towards / SAMPLE_RATE
    return basis


def knot_matrix() -> NDArray[np.float64]:
    """[5 + 4 + 4, 4]: five hops' pitch, its changes, newest first, and these times `lowness` -> pitch at four hops' centres.

    The first two knots lie before the newest hop, and know what follows them; the last is a guess one hop ahead. The weights
    are those of least absolute distance, over seventy recordings of speech and ten of singing, to the mean of SwiftF0 and
    Harvest, and to the truth of a synthetic singer. Distance at the first knot, on other parts of these, without the changes
    before the one at hand -> with them: at 60-90 Hz 18.6 -> 12.2 cents, 90-130 Hz 9.7 -> 7.5, 130-220 Hz 6.2 -> 4.5,
    220-500 Hz 4.4 -> 3.5. Below 160 Hz the tracker's windows hold few periods and its answer comes late: it leans forward.
    """
    changes = np.array([[0.21, 0.48, -0.28, -0.12], [0.58, -0.23, -0.09, -0.03], [0.0, 0.0, 0.0, 0.0], [0.29, 0.21, 0.13, 0.08]])
    low = np.array([[0.41, 0.34, 0.23, 0.08], [0.25, 0.27, 0.12, 0.05], [0.0, 0.1, 0.08, 0.03], [-0.32, -0.04, 0.0, 0.0]])
    hops = np.zeros((5, 4))
    hops[[2, 3, 4, 4], [0, 1, 2, 3]] = 1.0
    return np.concatenate([hops, changes[:, ::-1].T, low[:, ::-1].T])


def overlap_matrix() -> NDArray[np.float64]:
    """[5, 3 + 4 + 4] hops: the tail, the first frame and, a hop later, the second -> the sum."""
    hops = FFT // HOP
    return np.concatenate([np.eye(hops + 1, hops - 1), np.eye(hops + 1, hops), np.eye(hops + 1, hops, -1)], 1)


def level_matrix() -> NDArray[np.float64]:
    """[BANDS + 1, BANDS + 1]: log energies of the bands and of their sum -> shape and loudness, logarithms of amplitude."""
    matrix = 0.5 * np.eye(BANDS + 1)
    matrix[BANDS, :BANDS] = -0.5
    return matrix


def apart(enter: nn.Linear) -> nn.Linear:
    """The encoder's first layer for two hops of (shape, loudness), of which it leaves the loudness alone."""
    layer = nn.Linear(2 * (BANDS + 1), enter.out_features)
    with torch.no_grad():
        weight = enter.weight.unflatten(1, (2, BANDS))
        layer.weight.copy_(nn.functional.pad(weight, (0, 1)).flatten(1))
        layer.bias.copy_(enter.bias)
    return layer


def sharpening_matrix() -> NDArray[np.float64]:
    """[GAINS, GAINS]: log gains -> log gains with their formants drawn out."""
    band = np.arange(GAINS)
    smooth = np.exp(-0.5 * ((band[:, None] - band[None]) / SHARPENING_BANDS) ** 2)
    return np.asarray(np.eye(GAINS) + SHARPENING * (np.eye(GAINS) - smooth / smooth.sum(1, keepdims=True)))


def sharpened(leave: nn.Linear) -> nn.Linear:
    """The decoder's last layer with the harmonic filters sharpened within it."""
    matrix = torch.tensor(sharpening_matrix(), dtype=torch.float32)
    layer: nn.Linear = copy.deepcopy(leave)
    with torch.no_grad():
        weight, bias = layer.weight.view(2, 2, GAINS, -1), layer.bias.view(2, 2, GAINS)
        weight[:, 0] = torch.einsum("ij,hjw->hiw", matrix, weight[:, 0])
        bias[:, 0] = bias[:, 0] @ matrix.T
    return layer


def whitening(encoder: Encoder) -> nn.Linear:
    """The encoder's last layer with the whitening of what it gives within it."""
    whiten, layer = encoder.whiten, copy.deepcopy(encoder.leave)
    with torch.no_grad():
        layer.weight.copy_(whiten.matrix.t() @ layer.weight)
        layer.bias.copy_(whiten(layer.bias))
    return layer


@dataclass(frozen=True)
class Tone:
    """What the graph makes of a voice.

    Attributes
    ----------
    timbre_hz : tuple of float
        Pitches that the decoder may know of; at one beyond, the voice keeps the timbre it has at the edge. At a pitch that a
        singer never sang, the decoder answers with what other people sound like there. With the singers' own ranges nine minutes
        of somebody's singing had, on ten spoken sources, the speaker cosine 0.739 instead of 0.726 and a DNSMOS of 2.83 instead of
        2.72; the bundled voices 0.00 to 0.01 and 0.01 to 0.03 more.
    emphasis : float
        How far the voice is moved from the mean of its bank, away from what the voices share with the source; trained at 1. At 1.4
        DNSMOS fell, at 2.2 the sound broke.
    equaliser_db : sequence of float
        What conversions lack of the voice's long-term spectrum: see `dsp.equaliser`.
    """

    timbre_hz: tuple[float, float] = TIMBRE_HZ
    emphasis: float = 1.2
    equaliser_db: Sequence[float] = (0.0,) * EQUALISER_BANDS


class StepGraph(nn.Module):
    """One step of 512 samples, for export. `forward` takes the inputs and states in the order of `input_names`."""

    def __init__(self, network: Network, prior: Tensor, tracker: PitchTracker, voices: list[int], tones: Sequence[Tone]) -> None:
        super().__init__()
        self.network = network
        self.tracker = tracker
        self.offset = OffsetFilter()
        self.mean = RunningMean(BANDS + 1)
        self.mean.prior.copy_(prior)
        # Embeddings through the decoder's voice layer: mixing voices is one product with the weights.
        with torch.no_grad():
            embeddings = network.voices.weight[voices]
            mean, emphasis = embeddings.mean(0, keepdim=True), torch.tensor([[tone.emphasis] for tone in tones])
            self.voice_bias = nn.Parameter(network.decoder.voice(mean + emphasis * (embeddings - mean)))
        self.timbre_hz = constant(np.array([tone.timbre_hz for tone in tones]))
        nepers = math.log(10) / 20 * np.array([gains_db(tone.equaliser_db, gain_centres_hz()) for tone in tones])
        self.equaliser = constant(nepers)
        self.analysis = RealDFT(WINDOW, ANALYSIS_GROUPS)
        self.pulse_analysis = RealDFT(2 * HOP, GROUPS)
        self.synthesis = InverseRealDFT()
        order = bin_order(ANALYSIS_GROUPS)
        mel = np.concatenate([mel_matrix(), np.zeros((order.max() + 1 - ANALYSIS_BINS, BANDS))])[order]
        mel *= counted(ANALYSIS_GROUPS)[..., None]
        self.window = constant(analysis_window())
        self.hann = constant(hann())
        mel = np.concatenate([mel, mel.sum(2, keepdims=True)], 2)
        self.mel = constant(np.stack([mel, mel], 1).reshape(-1, BANDS + 1))  # real and imaginary parts count alike
        self.floor = constant(np.append(np.full(BANDS, ENERGY_FLOOR), BANDS * ENERGY_FLOOR))
        order = bin_order(GROUPS)
        log_magnitude, phase = np.split(minimum_phase_matrix(), 2, axis=1)
        self.minimum_phase = constant(np.stack([log_magnitude[:, order], phase[:, order]], 2).reshape(GAINS, -1))
        bias = np.log(np.maximum(hermitian_weight(), NOTHING)) + EXPAND_BELOW
        self.magnitude_bias = constant(np.stack([bias, np.zeros_like(bias)], 1).flatten())
        noise = noise_spectra().reshape(-1, 2, BINS)[:, :, order].transpose(0, 2, 1, 3)
        self.noise = constant(noise.reshape(len(noise), -1))
        self.blocks: list[Block] = [*network.encoder.blocks, *network.decoder.blocks]
        self.to_content = whitening(network.encoder)
        self.leave = sharpened(network.decoder.leave)
        self.enter = apart(network.encoder.enter)
        self.levels = constant(level_matrix())
        # Numbers of the hops that lie under the analysis windows and under the frames of pulses.
        self.analysis_frames = torch.arange(WINDOW // HOP) + torch.arange(2)[:, None]
        self.pulse_frames = torch.arange(2) + torch.arange(2)[:, None]
        self.overlap = constant(overlap_matrix())
        self.changes = constant(np.eye(5, 4, -1) - np.eye(5, 4))
        self.knots = constant(knot_matrix())
        self.phase_basis = constant(phase_basis())
        self.ones = constant(np.ones((1, network.config.kernel - 1)))  # a sum over rows as a product is the quicker one
        self.depthwise_past = constant(torch.cat([block.depthwise[:-1] for block in self.blocks], 1).detach().numpy())

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the state, without the prefix `state_`."""
        config = self.network.config
        shapes: dict[str, tuple[int, ...]] = {
            "audio": (1, WINDOW - HOP),
            "mean": (1, BANDS + 2),
            "loudest": (1, 1),  # above EXPANDED_FROM, of the last ten seconds or so
            "pitch": (1, 3),  # f0 - 150 Hz at the last three frames' centres
            "phase": (1, 1),  # cycles, at the last of them
            "hop": (1,),  # number of the next hop, modulo the noise's period
            "tail": (FFT // HOP - 1, HOP),
        }
        shapes["blocks"] = (config.kernel - 1, len(self.blocks) * config.width)
        shapes["offset"] = (1, 1)
        tracker = list(zip(self.tracker.state_names, self.tracker.initial_state(), strict=True))[1:]
        return shapes | {f"tracker_{name}": tuple(value.shape) for name, value in tracker}

    def forward(self, audio: Tensor, voice: Tensor, pitch_ratio: Tensor, formant_ratio: Tensor, *states: Tensor) -> Any:
        config = self.network.config
        past, mean_state, loudest, pitch_state, phase, hop, tail, memory, offset = states[:9]
        audio, offset = self.offset(audio, offset)
        # The tracker's first state is the newest audio, which is here already.
        f0, voicing, tracker_state = self.tracker(audio, (past[:, -(DECIMATION_TAPS - DECIMATION) :], *states[9:]))
        heard = torch.cat([past, audio], 1)
        # Hops are rows, and frames are picked as rows.
        spectrum = self.analysis(heard.reshape(-1, HOP)[self.analysis_frames].reshape(2, WINDOW) * self.window)
        # The sum of all bands is one more band: one logarithm for both, and for all that follows.
        levels = torch.log((spectrum * spectrum).reshape(2, -1) @ self.mel + self.floor) @ self.levels
        loudness = levels[:, BANDS:]
        average = levels.mean(0, keepdim=True)
        mean, mean_state = self.mean(average, average[:, -1:], mean_state)
        levels = levels - mean
        relative = levels[:, BANDS:].reshape(1, 2)

        wanted = torch.clamp(f0 * pitch_ratio, LOWEST_HZ, HIGHEST_HZ)
        low, high = torch.clamp(voice @ self.timbre_hz, *TIMBRE_HZ).split(1, dim=1)  # whatever the weights
        heard_as = torch.minimum(torch.maximum(wanted, low), high)
        x = self.enter(levels.reshape(1, -1))
        # What each block's convolution owes to the past is known beforehand, for all blocks at once.
        owed = (self.ones @ (memory * self.depthwise_past)).split(config.width, dim=1)
        entered = []
        for k, block in enumerate(self.blocks):
            if k == config.encoder_blocks:
                x = self.network.decoder.enter(torch.cat([self.to_content(x), prosody(heard_as, voicing, relative)], 1))
                x = x + voice @ self.voice_bias
            entered.append(x)
            x = x + block.mix(x * block.depthwise[-1] + owed[k])
        gains = self.leave(x).reshape(4, GAINS) + voice @ self.equaliser  # rows: hop 0 harmonic, hop 0 noise, hop 1 ...
        gains = warp_gains(torch.clamp(gains, max=GAIN_LIMIT), formant_ratio)
        # What lies below EXPAND_BELOW counts twice. The constant that this takes from all the rest is in `magnitude_bias`.
        above = loudness - EXPANDED_FROM
        held = torch.maximum(LOUDEST_MEMORY * loudest, torch.minimum(above, loudest + LOUDEST_RISE))
        loudness = loudness + torch.clamp(above - held, max=-EXPAND_BELOW)
        gains = gains + torch.cat([loudness + voicing_gain(voicing).reshape(2, 1), loudness], 1).reshape(4, 1)

        excitation, phase, pitch_state = self.pulses(wanted, f0[:, 1:], phase, pitch_state)
        pulse = self.pulse_analysis(excitation * self.hann)
        number = hop.long() + torch.arange(2)
        first, second = NOISE_FRAMES
        noise = (self.noise[number % first] + self.noise[first + number % second]).reshape(pulse.shape)
        # [hops, (pulse, noise), ROWS, 1, bins]; the filters' real and imaginary parts likewise.
        real, imaginary = torch.stack([pulse, noise], 1).split(1, dim=3)
        response = (gains @ self.minimum_phase + self.magnitude_bias).reshape(2, 2, *pulse.shape[1:])
        log_magnitude, phase_angle = response.split(1, dim=3)
        magnitude = torch.exp(log_magnitude)
        cosine, sine = magnitude * torch.cos(phase_angle), magnitude * torch.sin(phase_angle)
        spectrum = torch.cat([real * cosine - imaginary * sine, real * sine + imaginary * cosine], 3).sum(1)
        frames = self.synthesis(spectrum)

        # Overlap and add, hop by hop, as one product.
        added = (self.overlap @ torch.cat([tail, frames.reshape(-1, HOP)])).reshape(1, -1)
        hop = torch.fmod(hop + 2, NOISE_FRAMES[0] * NOISE_FRAMES[1])
        memory = torch.cat([memory[1:], torch.cat(entered, 1)])
        loudest, tail = held.amax(0, keepdim=True), added[:, CHUNK:].reshape(-1, HOP)
        next_states = [heard[:, -(WINDOW - HOP) :], mean_state, loudest, pitch_state, phase, hop, tail, memory, offset]
        return added[:, :CHUNK], *next_states, *tracker_state[1:]

    def pulses(self, f0: Tensor, heard: Tensor, phase: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pitch in Hz at the two frames' centres [1, 2] -> excitation under the frames [2, 512], next phase, next `before`.

        `heard` [1, 1] is the source's own pitch at the newest of them.

        The excitation starts at the centre of the frame before, where the phase is settled, and runs on straight lines to the
        two centres. Only the second half of the last frame is a guess; the next frame, which shares that hop, starts from the
        settled phase again and corrects it while the windows cross.
        """
        recent = torch.cat([before + START_PITCH_HZ, f0], 1)
        change = torch.clamp(recent @ self.changes, -LARGEST_CHANGE_HZ, LARGEST_CHANGE_HZ)
        lowness = torch.clamp((LOW_HZ[1] - heard) / (LOW_HZ[1] - LOW_HZ[0]), 0.0, 1.0)
        knots = torch.cat([recent, change, change * lowness], 1) @ self.knots
        harmonics = harmonics_below_nyquist(torch.maximum(knots[:, :3], knots[:, 1:]))
        cycles = torch.cat([phase, knots], 1) @ self.phase_basis
        train = pulse_train(cycles.reshape(3, HOP), harmonics.reshape(3, 1))
        settled = cycles[:, 2 * HOP - 1 : 2 * HOP]
        frames = train[self.pulse_frames].reshape(2, 2 * HOP)
        return frames, torch.fmod(settled, 1.0), recent[:, 2:] - START_PITCH_HZ

    def input_names(self) -> list[str]:
        return ["audio", "voice", "pitch_ratio", "formant_ratio", *(f"state_{name}" for name in self.state_shapes())]


def export_stream(
    network: Network,
    prior: Tensor,
    tracker: PitchTracker,
    voices: dict[str, int],
    tones: Sequence[Tone],
    *,
    integer: bool = True,
) -> bytes:
    """The streaming graph as ONNX bytes.

    `voices`: name -> number of its embedding; `tones` are in their order; `integer`: int8 weights in the blocks.
    """
    graph = StepGraph(network, prior, tracker, list(voices.values()), tones).eval()
    shapes = graph.state_shapes()
    weights = torch.zeros(1, len(voices))
    weights[0, 0] = 1.0
    inputs = (torch.zeros(1, CHUNK), weights, torch.ones(1), torch.ones(1), *(torch.zeros(s) for s in shapes.values()))
    outputs = ["audio_out", *(f"next_state_{name}" for name in shapes)]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer warns of the constants that we mean it to keep
        names, path = graph.input_names(), str(Path(folder) / "graph.onnx")
        torch.onnx.export(
            graph, inputs, path, opset_version=OPSET, dynamo=False, input_names=names, output_names=outputs
        )
        model = onnx.load(path)
        if integer:
            model = quantised(model, Path(folder))
    config = network.config
    blocks = (config.encoder_blocks + config.decoder_blocks) * (config.kernel - 1) * CHUNK
    metadata = {
        "format": 1,
        "kind": "stream",
        "sample_rate": SAMPLE_RATE,
        "chunk": CHUNK,
        "lookahead": HOP,
        # The blocks' past and the window. The running mean remembers longer, but only sets what counts as average.
        "receptive_field": blocks + WINDOW,
        "voices": list(voices),
        "controls": ["voice", "pitch_ratio", "formant_ratio"],
    }
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(metadata)})
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def quantised(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """Dynamic int8 of the blocks' two matrices, per output channel; the rest stays float32.

    Pitch, phase and filters stay in float32: errors there add up over time. The blocks hold most of the weights.
    """
    inside = [
        node.name
        for node in model.graph.node
        if node.op_type == "Gemm" and ("expand" in node.name or "project" in node.name)
    ]
    # The quantiser first splits each Gemm into a product and a sum, and names the product so.
    inside = [f"{name}_MatMul" for name in inside]
    plain, small = folder / "plain.onnx", folder / "small.onnx"
    onnx.save(model, plain)
    logging.disable(logging.WARNING)  # it advises a preparation that this graph has no need of
    try:
        quantize_dynamic(plain, small, weight_type=QuantType.QInt8, per_channel=True, nodes_to_quantize=inside)
    finally:
        logging.disable(logging.NOTSET)
    return onnx.load(small)
