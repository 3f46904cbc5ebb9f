"""The denoiser: skipping is the identity, copies keep the function, a slice's inside does not know where the slice began."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from models.lhq.denoiser import BlockConfig, CrossAttention, Denoiser, DenoiserConfig  # noqa: E402

torch.set_num_threads(1)
BLOCKS = (
    BlockConfig("attention", 5),
    BlockConfig("conv", 3, 2),
    BlockConfig("attention", 3),
    BlockConfig("conv", 1, 1),
)
TINY = DenoiserConfig(0.1, mels=10, condition=12, width=16, heads=4, time=8, blocks=BLOCKS)


def lively(config: DenoiserConfig = TINY) -> Denoiser:
    """A denoiser no part of which is zero, as after training."""
    torch.manual_seed(0)
    denoiser = Denoiser(config)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return denoiser.eval()


def inputs(frames: int, batch: int = 2) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    z, coarse = torch.randn(2, batch, frames, TINY.mels, generator=generator)
    return z, torch.rand(batch, generator=generator), torch.randn(batch, frames, TINY.condition, generator=generator), coarse


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_skipped_block_is_exactly_the_identity(number: int) -> None:
    denoiser, given = lively(), inputs(40)
    with torch.no_grad():
        skipped = denoiser(*given, keep=[k != number for k in range(len(BLOCKS))])
        assert torch.equal(skipped, denoiser.without(number)(*given))
        assert not torch.equal(skipped, denoiser(*given))


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_duplicated_block_leaves_the_function_at_birth_and_learns_from_then_on(number: int) -> None:
    denoiser, given = lively(), inputs(40)
    grown = denoiser.duplicated(number)
    assert torch.equal(grown(*given), denoiser(*given))
    assert grown.config.blocks[number] == grown.config.blocks[number + 1] == BLOCKS[number]
    grown(*given).square().sum().backward()
    assert grown.blocks[number + 1].gain.grad.abs().max() > 0


def test_a_copy_shares_nothing_with_its_model() -> None:
    denoiser = lively()
    own = {parameter.data_ptr() for parameter in denoiser.parameters()}
    assert own.isdisjoint({parameter.data_ptr() for parameter in denoiser.duplicated(1).parameters()})


def test_an_untrained_denoiser_is_the_best_one_for_white_noise_about_the_coarse_mel() -> None:
    """For x ~ N(coarse, scale²), E[x given z] = coarse + alpha (z - alpha coarse)."""
    z, t, condition, coarse = inputs(20)
    share = torch.cos(torch.pi * t / 2)[:, None, None]
    torch.testing.assert_close(Denoiser(TINY)(z, t, condition, coarse), coarse + share * (z - share * coarse))


@pytest.mark.parametrize("first", [1, 7, 16, 23])
def test_the_inside_of_a_slice_does_not_depend_on_where_it_begins(first: int) -> None:
    denoiser, (z, t, condition, coarse) = lively(), inputs(90)
    margin = denoiser.receptive_frames
    assert margin == 3 + 1 + 5
    with torch.no_grad():
        whole = denoiser(z, t, condition, coarse)
        part = slice(first, 80)
        sliced = denoiser(z[:, part], t, condition[:, part], coarse[:, part])
    torch.testing.assert_close(sliced[:, margin:-margin], whole[:, part][:, margin:-margin], atol=1e-6, rtol=0)


def test_the_receptive_field_is_no_larger_and_no_smaller_than_reported() -> None:
    denoiser, (z, t, condition, coarse) = lively(), inputs(64)
    condition.requires_grad_()
    denoiser(z, t, condition, coarse)[:, 30].sum().backward()
    felt = condition.grad.abs().sum((0, 2)).nonzero().flatten()
    assert felt.min() == 30 - denoiser.receptive_frames and felt.max() == 30 + denoiser.receptive_frames


@pytest.mark.parametrize("frames", [1, 15, 16, 33])
def test_tiled_attention_is_attention_with_a_band_mask(frames: int) -> None:
    """Against the plain formula, softmax(q k / sqrt(d) + bias) v over all frames within reach."""
    torch.manual_seed(2)
    attention = CrossAttention(TINY, BLOCKS[0])
    with torch.no_grad():
        attention.nearness.normal_()
    x, condition = torch.randn(2, frames, TINY.width), torch.randn(2, frames, TINY.condition)
    # What lies beyond the ends is heard as zeros, as by a convolution.
    around = torch.nn.functional.pad
    reach = BLOCKS[0].reach
    q = attention.query(attention.norm(x)).unflatten(2, (TINY.heads, -1)).transpose(1, 2)
    k, v = (
        around(layer(condition), (0, 0, reach, reach)).unflatten(2, (TINY.heads, -1)).transpose(1, 2)
        for layer in (attention.key, attention.value)
    )
    offset = torch.arange(frames + 2 * reach) - torch.arange(frames)[:, None]
    bias = attention.nearness[:, offset.clamp(0, 2 * reach)]
    bias = bias.masked_fill((offset < 0) | (offset > 2 * reach), -torch.inf)
    wanted = torch.softmax(q @ k.transpose(2, 3) / q.shape[3] ** 0.5 + bias, 3) @ v
    wanted = attention.gain * attention.project(wanted.transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x, torch.zeros(2, TINY.time), condition), wanted, atol=1e-5, rtol=1e-4)
