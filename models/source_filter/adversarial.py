"""The adversarial stage: what the spectral loss leaves smooth, discriminators make sharp.

A regression gives the mean of all envelopes that fit the content, smoother than any of them. Here the decoder goes on training
against discriminators that see spectrograms of the target's recordings and of what the converter makes: reconstructions of
them, which a recording exists for, and conversions of other people, which it does not.

With nobody who hears the words (`Words`) the encoder stays as it is, so that nothing more of the source can get through, and what
it hears in a conversion has to be what it heard in the source. With somebody, a conversion has to be heard as its source is, and
the encoder may learn, too: what comes through its bottleneck is to tell the words.

    python -m models.source_filter.adversarial --work FOLDER [--steps N]

reads checkpoint.pt of `models.source_filter.train` in FOLDER, or without one goes on from the shipped base (`--base
models/source_filter/clear.npz`: from the network of `presets/clear.voice`), and writes adversarial.pt beside it. What it learnt of
the words with the encoder cost its decoder likeness: `--base blended.npz --blended` goes on from a blend of both decoders
(`models.source_filter.blend`).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dsp.mel import hz_to_mel, mel_to_hz
from models.checkpoint import restoring, save
from models.command import run
from models.device import CPU, pick_device
from models.image_judge import ImageJudge
from models.interruption import Interruption
from models.llvc.discriminators import Discriminators, Verdict
from models.llvc.losses import discriminator_loss, feature_loss, generator_loss
from models.source_filter.data import Crop, Recordings, read_settings
from models.source_filter.disturb import disturb
from models.source_filter.features import CHUNK, HOP, SAMPLE_RATE, frame, split_loudness
from models.source_filter.network import Network
from models.source_filter.train import CHECKPOINT as PLAIN
from models.source_filter.train import SETTLING, Trainer, TrainingConfig, spectral_loss, stage_parser
from models.source_filter.weights import Trained, load_checkpoint, load_trained
from models.whisper import BandPower
from models.words import CHANNELS, FRAME_S, Words, WordsLost, distance, said

CHECKPOINT = "adversarial.pt"
RESOLUTIONS = ((512, 128), (1024, 256), (2048, 512))  # FFT and hop, samples: pulses and plosives up to single harmonics
BANDS = 96
LOWEST_HZ, HIGHEST_HZ = 50.0, 1_200.0  # of a pitch that is moved
LEAST_AMPLITUDE = 1e-4  # of a band, 80 dB under full scale


@dataclass(frozen=True)
class AdversarialConfig:
    """The `[adversarial]` table of a recipe; the comments are there."""

    seed: int
    batch: int
    chunks: int
    learning_rate: float
    encoder_learns: bool
    average: float
    adversarial: float
    features: float
    content: float
    helpers: float
    content_noise: float
    consistency: float
    words: float
    told: float


@dataclass(frozen=True)
class Losses:
    """Of one step, unweighted."""

    spectral: float
    adversarial: float
    features: float
    content: float
    discriminators: float
    agreement: float
    told: float


class Spectrogram(ImageJudge):
    """One resolution, which sees log magnitudes in mel-spaced bands.

    Waveform discriminators (periods) are no use here: minimum-phase filters give the phase away, whatever the network does.
    """

    def __init__(self, fft: int, hop: int, speakers: int) -> None:
        super().__init__(speakers)
        self.fft, self.hop = fft, hop
        bins = fft // 2 + 1
        edges = mel_to_hz(np.linspace(0.0, float(hz_to_mel(SAMPLE_RATE / 2)), BANDS + 2)) / SAMPLE_RATE * fft
        # Bands narrower than a bin take the bin's own width, or they would be empty.
        low, high = np.minimum(edges[:-2], edges[1:-1] - 1), np.maximum(edges[2:], edges[1:-1] + 1)
        at = np.arange(bins)[:, None]
        weights = np.maximum(0.0, np.minimum((at - low) / (edges[1:-1] - low), (high - at) / (high - edges[1:-1])))
        self.bands: Tensor
        self.register_buffer("bands", torch.tensor(weights / weights.sum(0), dtype=torch.float32), persistent=False)

    def forward(self, audio: Tensor, speaker: Tensor) -> Verdict:
        spectrum = torch.stft(
            audio, self.fft, self.hop, window=torch.hann_window(self.fft, device=audio.device), center=False, return_complex=True
        ).abs()
        amplitude = spectrum.transpose(1, 2) @ self.bands / self.fft**0.5
        # To about zero mean and unit variance.
        x = (0.4 * torch.log(amplitude + LEAST_AMPLITUDE) + 2.2).transpose(1, 2)[:, None]
        return self.judge(x, speaker)


class Judges(Discriminators):
    """All resolutions. (Audio [batch, samples], speaker int64 [batch]) -> one `Verdict` each."""

    def __init__(self, speakers: int) -> None:
        super().__init__([Spectrogram(fft, hop, speakers) for fft, hop in RESOLUTIONS])

    def forward(self, audio: Tensor, speaker: Tensor) -> list[Verdict]:  # type: ignore[override]
        return [member(audio, speaker) for member in self.members]


class Game(nn.Module):
    """Both sides: the converter, whose encoder learns where somebody hears the words and the recipe wants it, and its judges."""

    def __init__(
        self,
        network: Network,
        prior: Tensor,
        voices: int,
        training: TrainingConfig,
        config: AdversarialConfig,
        words: Words | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        network.config = replace(network.config, content_noise=config.content_noise)
        self.trainer = Trainer(network, training)
        self.trainer.mean.prior.copy_(prior)
        self.learns = words is not None and config.encoder_learns
        network.encoder.requires_grad_(self.learns)
        self.judges = Judges(voices)
        # In a tuple: its weights are nobody's to train or to save.
        self.words = None if words is None else (WordsLost(words, BandPower(SAMPLE_RATE)),)
        self.teller = nn.Linear(network.config.content, CHANNELS) if self.learns else None

    def move(self, device: torch.device) -> None:
        """All of it, the words' listener too."""
        self.to(device)
        for listener in self.words or ():
            listener.to(device)

    def convert(
        self, crop: Crop, speaker: NDArray[np.int64], generator: torch.Generator, *, disturbed: bool, compared: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A crop in the voices `speaker` [batch], which may be its own -> audio [batch, samples], as `Trainer.synthesise`; its
        content with the bottleneck's noise; and, if they are `compared`, how far the contents of two disturbances are apart."""
        trainer, first = self.trainer, self.trainer.config.context_chunks
        encoder, agreement = trainer.network.encoder, torch.zeros((), device=trainer.device)
        with torch.no_grad():
            energy = trainer.energy(frame(torch.from_numpy(crop.audio).to(trainer.device)))
            views = [disturb(energy, generator) for _ in range(disturbed + compared)]
            # All in one: the running mean goes chunk by chunk.
            spectra, loudness, relative = trainer.normalised(torch.cat([energy, *views]))
            loudness, relative = loudness[: len(energy)], relative[: len(energy)]
            heard = spectra[len(energy) if views else 0 :, first:]
        if compared:
            content, other = encoder.whiten.fit(encoder.encode(heard)).chunk(2)
            agreement = (content - other).square().mean()
        else:
            content = encoder(heard)
        content = trainer.network.disturb(content)
        hops = slice(2 * first, None)
        f0, voicing = (torch.from_numpy(x)[:, hops].to(trainer.device) for x in (crop.f0, crop.voicing))
        made = trainer.synthesise(content, f0, voicing, loudness[:, first:], relative[:, first:], speaker, generator)
        return made, content, agreement

    def told(self, audio: Tensor, content: Tensor) -> Tensor:
        """How far what the bottleneck tells of the words, chunk by chunk [batch, chunks, content], is from what is said in the
        audio of these chunks."""
        assert self.words and self.teller
        hearing = self.words[0]
        with torch.no_grad():
            power = hearing.bands(audio)
            wanted, weight = hearing.words(power), said(power)
        # The middle of a frame of 20 ms, in chunks.
        at = (torch.arange(wanted.shape[1], device=wanted.device) * FRAME_S + FRAME_S / 4) * SAMPLE_RATE / CHUNK - 0.25
        at = at.clamp(0, content.shape[1] - 1.001)
        below = at.long()
        tale = self.teller(content)
        tale = torch.lerp(tale[:, below], tale[:, below + 1], (at - below)[None, :, None])
        return distance(tale, wanted, weight)

    def heard(self, audio: Tensor) -> Tensor:
        """What the encoder hears in a short piece [batch, samples]: content, from spectra against the piece's own mean."""
        shape, loudness = split_loudness(self.trainer.energy(frame(audio)))
        weight = torch.exp(2 * loudness)
        mean = (shape * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
        content: Tensor = self.trainer.network.encoder((shape - mean).unflatten(1, (-1, 2)).flatten(2))
        return content

    def kept(self, source: Tensor, made: Tensor) -> Tensor:
        """Distance of what the encoder hears in a conversion from what it hears in its source; silence does not count."""
        with torch.no_grad():
            wanted = self.heard(source)
            _, loudness = split_loudness(self.trainer.energy(frame(source)))
            loud = loudness.unflatten(1, (-1, 2)).mean(2)
            weight = (loud > loud.amax(1, keepdim=True) - 4.6).float()
        distance: Tensor = (self.heard(made) - wanted).square().mean(2, keepdim=True) * weight
        total: Tensor = distance.sum() / weight.sum()
        return total


def into_range(
    f0: NDArray[np.float32],
    voicing: NDArray[np.float32],
    ranges: list[tuple[float, float]],
    speaker: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Pitches [batch, T] in Hz, each row's moved as a whole into the range of the voice that is to speak, to anywhere in it.

    Out of the range no recording of the voice exists, and every pitch would be given away by itself.
    """
    moved = f0.copy()
    for row, number in enumerate(speaker):
        low, high = ranges[number]
        voiced = voicing[row] > 0.5
        middle = float(np.median(f0[row, voiced])) if voiced.any() else 150.0
        wanted = low * (high / low) ** rng.uniform(0.25, 0.75)
        moved[row] = np.clip(f0[row] * wanted / middle, LOWEST_HZ, HIGHEST_HZ)
    return moved


def below(audio: Tensor, bandwidth_hz: NDArray[np.float32]) -> Tensor:
    """Audio [batch, samples] without what lies above each row's bandwidth [batch]."""
    if (bandwidth_hz >= SAMPLE_RATE / 2).all():
        return audio
    hz = torch.fft.rfftfreq(audio.shape[1], 1 / SAMPLE_RATE, device=audio.device)
    inside = hz <= torch.from_numpy(bandwidth_hz).to(audio.device)[:, None]
    cut: Tensor = torch.fft.irfft(torch.fft.rfft(audio) * inside, audio.shape[1])
    return cut


def makers_losses(made: list[Verdict], real: list[Verdict]) -> tuple[Tensor, Tensor]:
    """The generator's loss and that of feature matching, means over the judges.

    Of what is made the first rows are reconstructions of the recordings `real`; the conversions after them have none to match.
    """
    count = len(real[0].scores)
    rebuilt = [Verdict(v.scores[:count], [f[:count] for f in v.features]) for v in made]
    return generator_loss(made=made) / len(made), feature_loss(recorded=real, made=rebuilt) / len(made)


def play(
    recordings: Recordings,
    game: Game,
    work: Path,
    steps: int,
    report: Callable[[int, Losses], None],
    *,
    report_every: int = 50,
    save_seconds: float = 120.0,
    stop_at: float = float("inf"),
    device: torch.device = CPU,
) -> None:
    """Train until `steps` (or the clock's `stop_at`), resuming from `work`/adversarial.pt, on either device.

    What `bank` reads is the averaged network in there.
    """
    game.move(device)
    config, training = game.config, game.trainer.config
    network, judges = game.trainer.network, game.judges
    average = copy.deepcopy(network)
    learning = [p for p in network.parameters() if p.requires_grad]
    if game.teller:
        learning += game.teller.parameters()
    optimiser = torch.optim.AdamW(learning, lr=config.learning_rate, betas=(0.8, 0.99), weight_decay=0.01)
    opponent = torch.optim.AdamW(judges.parameters(), lr=config.learning_rate, betas=(0.8, 0.99), weight_decay=0.01)
    ranges = [recordings.f0_range_hz(voice) for voice in recordings.voices]
    step, path = 0, work / CHECKPOINT
    if path.exists():
        with restoring(path) as state:
            network.load_state_dict(state["network"])
            average.load_state_dict(state["average"])
            judges.load_state_dict(state["judges"])
            optimiser.load_state_dict(state["optimiser"])
            opponent.load_state_dict(state["opponent"])
            step = state["step"]
            if game.teller:
                game.teller.load_state_dict(state["teller"])

    def write() -> None:
        state: dict[str, Any] = {"teller": game.teller.state_dict()} if game.teller else {}
        state |= {"network": network.state_dict(), "average": average.state_dict(), "judges": judges.state_dict()}
        state |= {"step": step, "content_noise": network.config.content_noise}
        state |= {"optimiser": optimiser.state_dict(), "opponent": opponent.state_dict(), "prior": game.trainer.mean.prior}
        save(path, state | {"voices": recordings.voices, "speakers": len(recordings.speakers)})

    chunks = training.context_chunks + training.warm_chunks + config.chunks
    start = 2 * (training.context_chunks + training.warm_chunks) + SETTLING
    saved, losses = time.monotonic(), []
    with Interruption() as interruption:
        while step < steps and time.monotonic() < stop_at and not interruption.came:
            rng = np.random.default_rng([config.seed, step])
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
            torch.manual_seed(config.seed * 1_000_003 + step)
            for group in (*optimiser.param_groups, *opponent.param_groups):
                group["lr"] = config.learning_rate * min(1.0, (step + 1) / 100, max(0.1, 2 * (1 - step / steps)))
            own = recordings.crop(rng, config.batch, chunks, config.helpers if game.words else 0.0)
            others = recordings.crop(rng, config.batch, chunks, 0.8)
            target = rng.integers(len(recordings.voices), size=config.batch)
            moved = replace(others, f0=into_range(others.f0, others.voicing, ranges, target, rng))
            hears = game.words is not None
            rebuilt, content, agreement = game.convert(own, own.speaker, generator, disturbed=True, compared=game.learns)
            # Who hears the words must not learn to hear the throat with them: the encoder is not told which one it was.
            converted, _, _ = game.convert(moved, target, generator, disturbed=hears)
            piece = slice(start * HOP, start * HOP + rebuilt.shape[1])
            recorded, source = (torch.from_numpy(crop.audio[:, piece]).to(device) for crop in (own, others))
            voiced = own.speaker < len(recordings.voices)  # helping speakers have no judge
            speaker = torch.from_numpy(own.speaker[voiced]).to(device)
            both = torch.cat([speaker, torch.from_numpy(target).to(device)])
            # Nobody judges what the recordings say nothing about: conversions end where recordings of the batch do.
            bandwidth = own.bandwidth_hz[voiced]
            judged = below(recorded[voiced], bandwidth)
            made = below(torch.cat([rebuilt[voiced], converted]), np.append(bandwidth, np.resize(bandwidth, config.batch)))

            # Recordings count as often as what is made, though there are half as many.
            lost = discriminator_loss(recorded=judges(judged, speaker), made=judges(made.detach(), both))
            opponent.zero_grad(set_to_none=True)
            lost.backward()
            opponent.step()

            judges.requires_grad_(False)
            verdicts = judges(made, both)
            with torch.no_grad():
                real = judges(judged, speaker)
            won, alike = makers_losses(verdicts, real)
            near = spectral_loss(rebuilt, recorded, torch.from_numpy(own.bandwidth_hz).to(device))
            total = near + config.adversarial * won + config.features * alike
            told = torch.zeros((), device=device)
            if game.learns:
                heard = slice(training.context_chunks * CHUNK, None)
                told = game.told(torch.from_numpy(own.audio[:, heard]).to(device), content)
            if game.words:
                kept = game.words[0](source, converted)
                total = total + config.words * kept + config.told * told + config.consistency * agreement
            else:
                kept = game.kept(source, converted)
                total = total + config.content * kept
            judges.requires_grad_(True)
            optimiser.zero_grad(set_to_none=True)
            total.backward()
            nn.utils.clip_grad_norm_(learning, 1.0)
            optimiser.step()
            step += 1
            with torch.no_grad():
                # With the buffers: what whitens goes with the weights of the encoder that it whitens.
                for slow, fast in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
                    slow.lerp_(fast, 1 - config.average)
            row = (near, won, alike, kept, lost / len(verdicts), agreement, told)
            losses.append([loss.item() for loss in row])
            if step % report_every == 0 or step == steps:
                report(step, Losses(*np.mean(losses, 0).tolist()))
                losses = []
            if time.monotonic() - saved > save_seconds:
                write()
                saved = time.monotonic()
        write()


def with_helpers(base: Trained, speakers: int) -> Trained:
    """The base, which knows its voices alone, with embeddings for helping speakers: near the mean of the voices'."""
    network = Network(replace(base.network.config, voices=speakers))
    state = base.network.state_dict()
    known = state["voices.weight"]
    fresh = known.mean(0) + 0.3 * known.std() * torch.randn(speakers - len(known), known.shape[1])
    network.load_state_dict(state | {"voices.weight": torch.cat([known, fresh])})
    return Trained(network, base.prior, base.voices)


def main() -> None:
    parser = stage_parser("Sharpen a trained bank against discriminators, its words heard.", 2_000)
    parser.add_argument("--base", type=Path, help="a network to go on from, where there is no checkpoint.pt")
    parser.add_argument("--blended", action="store_true", help="it is one: the encoder stays, as the recipe says")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = read_settings(AdversarialConfig, arguments.recipe, "adversarial", *(["blended"] if arguments.blended else []))
    recordings = Recordings(arguments.work / "packed")
    torch.manual_seed(config.seed)
    plain = arguments.work / PLAIN
    trained = load_checkpoint(plain) if plain.exists() else with_helpers(
        load_trained(arguments.base), len(recordings.speakers)
    )
    if trained.voices != recordings.voices:
        parser.error(f"expected recordings of {', '.join(trained.voices)}, got those of {', '.join(recordings.voices)}")
    training = read_settings(TrainingConfig, arguments.recipe, "training")
    words = Words() if config.words else None
    game = Game(trained.network, trained.prior, len(recordings.voices), training, config, words)
    began = time.monotonic()

    def report(step: int, losses: Losses) -> None:
        figures = " ".join(f"{name} {value:.4f}" for name, value in vars(losses).items())
        print(f"step {step} {figures} {time.monotonic() - began:.0f} s", flush=True)

    play(recordings, game, arguments.work, arguments.steps, report, device=pick_device(arguments.device))


if __name__ == "__main__":
    run(main)
