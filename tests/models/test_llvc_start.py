"""The start of LLVC's training: a filterbank and its inverse around a mask of nearly one."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn.functional import conv1d, conv_transpose1d, pad  # noqa: E402

from dsp.singer import Note, sing  # noqa: E402
from models.llvc.network import VARIANTS, Generator  # noqa: E402
from models.llvc.start import filterbank, pass_on  # noqa: E402

torch.set_num_threads(1)


@pytest.mark.parametrize(("stride", "width"), [(16, 512), (64, 512)])
def test_the_filterbank_and_its_inverse_are_the_identity(stride, width):
    analysis, synthesis = filterbank(stride, width, taps=5)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 1, 40 * stride)))
    frames = torch.relu(conv1d(pad(x, (stride, stride)), analysis.double(), stride=stride))
    y = conv_transpose1d(pad(frames, (4, 0)), synthesis.double(), stride=stride, padding=4 * stride)
    # The first stride is faded in: there is no frame before it.
    torch.testing.assert_close(y[..., stride:], x[..., stride:], rtol=0, atol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_fresh_generator_passes_its_input_on(variant):
    config = VARIANTS[variant]
    torch.manual_seed(0)
    generator = pass_on(Generator(config)).eval()
    song = sing([Note(52, 0.6, "a", "m"), Note(57, 0.9, "o", "s")], config.sample_rate).audio[None, None]
    with torch.no_grad():
        error = generator(torch.from_numpy(song)).numpy() - song
    assert 10 * np.log10((song**2).mean() / (error**2).mean()) > 18


def test_too_narrow_a_network_is_refused():
    with pytest.raises(ValueError, match="expected a width of a multiple of 4 from 96 on, got 64"):
        pass_on(Generator(replace(VARIANTS["llvc"], width=64, decoder_width=32)))
