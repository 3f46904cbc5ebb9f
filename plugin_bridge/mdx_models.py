"""What is published about the MDX-Net models of Ultimate Vocal Remover, and does not stand in their files.

The program keeps a registry, `model_data.json`, in which a model is known by the end of its file. Copies of it agree on all that
is here.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

END_BYTES = 10_000 * 1024  # of a file, by whose MD5 the registry knows it


class MdxModel(NamedTuple):
    """A line of the registry.

    Attributes
    ----------
    bins : int
        Of a spectrum that go into the network (`mdx_dim_f_set`).
    n_fft : int
        Length of the transform, in samples (`mdx_n_fft_scale_set`).
    compensate : float
        By which what the network gives is to be multiplied.
    stem : str
        What it gives (`primary_stem`).
    """

    bins: int
    n_fft: int
    compensate: float
    stem: str


REGISTRY = {
    "0ddfc0eb5792638ad5dc27850236c246": MdxModel(2048, 6144, 1.035, "Vocals"),
    "0f2a6bc5b49d87d64728ee40e23bceb1": MdxModel(2560, 5120, 1.019, "Instrumental"),
    "1c56ec0224f1d559c42fd6fd2a67b154": MdxModel(2048, 5120, 1.025, "Instrumental"),
    "1d64a6d2c30f709b8c9b4ce1366d96ee": MdxModel(2048, 5120, 1.065, "Instrumental"),
    "203f2a3955221b64df85a41af87cf8f0": MdxModel(3072, 6144, 1.035, "Instrumental"),
    "26d308f91f3423a67dc69a6d12a8793d": MdxModel(2048, 8192, 1.035, "Other"),
    "291c2049608edb52648b96e27eb80e95": MdxModel(3072, 6144, 1.035, "Instrumental"),
    "2cdd429caac38f0194b133884160f2c6": MdxModel(3072, 7680, 1.045, "Instrumental"),
    "2f5501189a2f6db6349916fabe8c90de": MdxModel(2048, 6144, 1.035, "Vocals"),
    # The registry says 1.75, twice a second voice in what is left over: a slip, so it is left as the network gives it.
    "398580b6d5d973af3120df54cee6759d": MdxModel(3072, 7680, 1.0, "Vocals"),
    "488b3e6f8bd3717d9d7c428476be2d75": MdxModel(3072, 7680, 1.035, "Instrumental"),
    "4910e7827f335048bdac11fa967772f9": MdxModel(2048, 4096, 1.035, "Drums"),
    "53c4baf4d12c3e6c3831bb8f5b532b93": MdxModel(3072, 7680, 1.043, "Vocals"),
    "55657dd70583b0fedfba5f67df11d711": MdxModel(3072, 6144, 1.022, "Instrumental"),
    "5d343409ef0df48c7d78cce9f0106781": MdxModel(3072, 7680, 1.075, "Vocals"),
    "5f6483271e1efb9bfb59e4a3e6d4d098": MdxModel(2048, 6144, 1.035, "Vocals"),
    "65ab5919372a128e4167f5e01a8fda85": MdxModel(2048, 8192, 1.035, "Other"),
    "6703e39f36f18aa7855ee1047765621d": MdxModel(2048, 16384, 1.035, "Bass"),
    "6b31de20e84392859a3d09d43f089515": MdxModel(2048, 6144, 1.035, "Vocals"),
    "73492b58195c3b52d34590d5474452f6": MdxModel(3072, 7680, 1.043, "Vocals"),
    "77d07b2667ddf05b9e3175941b4454a0": MdxModel(3072, 7680, 1.021, "Vocals"),
    "867595e9de46f6ab699008295df62798": MdxModel(3072, 7680, 1.03, "Vocals"),
    "8a88db95c7fb5dbe6a095ff2ffb428b1": MdxModel(2048, 5120, 1.026, "Instrumental"),
    "94ff780b977d3ca07c7a343dab2e25dd": MdxModel(3072, 6144, 1.039, "Instrumental"),
    "970b3f9492014d18fefeedfe4773cb42": MdxModel(3072, 7680, 1.009, "Vocals"),
    "a3cd63058945e777505c01d2507daf37": MdxModel(2048, 6144, 1.03, "Vocals"),
    "b02be2d198d4968a121030cf8950b492": MdxModel(2560, 5120, 1.02, "No Crowd"),
    "b06327a00d5e5fbc7d96e1781bbdb596": MdxModel(3072, 6144, 1.035, "Instrumental"),
    "b33d9b3950b6cbf5fe90a32608924700": MdxModel(3072, 7680, 1.03, "Vocals"),
    "b6bccda408a436db8500083ef3491e8b": MdxModel(3072, 7680, 1.02, "Instrumental"),
    "b78da4afc6512f98e4756f5977f5c6b9": MdxModel(3072, 7680, 1.021, "Instrumental"),
    "c3b29bdce8c4fa17ec609e16220330ab": MdxModel(2048, 16384, 1.035, "Bass"),
    "cb790d0c913647ced70fc6b38f5bea1a": MdxModel(2560, 5120, 1.01, "Instrumental"),
    "cc63408db3d80b4d85b0287d1d7c9632": MdxModel(3072, 6144, 1.033, "Instrumental"),
    "cd5b2989ad863f116c855db1dfe24e39": MdxModel(3072, 6144, 1.035, "Reverb"),
    "ceed671467c1f64ebdfac8a2490d0d52": MdxModel(3072, 7680, 1.035, "Instrumental"),
    "d2a1376f310e4f7fa37fb9b5774eb701": MdxModel(3072, 7680, 1.035, "Instrumental"),
    "d7bff498db9324db933d913388cba6be": MdxModel(2048, 6144, 1.035, "Vocals"),
    "d94058f8c7f1fae4164868ae8ae66b20": MdxModel(2048, 6144, 1.035, "Vocals"),
    "dc41ede5961d50f277eb846db17f5319": MdxModel(2048, 4096, 1.035, "Drums"),
    "e5572e58abf111f80d8241d2e44e7fa4": MdxModel(3072, 7680, 1.028, "Instrumental"),
    "e7324c873b1f615c35c1967f912db92a": MdxModel(3072, 7680, 1.03, "Vocals"),
    "ead8d05dab12ec571d67549b3aab03fc": MdxModel(3072, 6144, 1.035, "Instrumental"),
    "f2df6d6863d8f435436d8b561594ff49": MdxModel(3072, 7680, 1.035, "Instrumental"),
}

# Of those whose names go with one line for certain: a file that somebody exported anew has another end, and keeps its name.
NAMES = {
    "kim_inst": "b6bccda408a436db8500083ef3491e8b",
    "kim_vocal_1": "73492b58195c3b52d34590d5474452f6",
    "kim_vocal_2": "970b3f9492014d18fefeedfe4773cb42",
    "kuielab_a_bass": "6703e39f36f18aa7855ee1047765621d",
    "kuielab_a_drums": "dc41ede5961d50f277eb846db17f5319",
    "kuielab_a_other": "26d308f91f3423a67dc69a6d12a8793d",
    "kuielab_a_vocals": "5f6483271e1efb9bfb59e4a3e6d4d098",
    "kuielab_b_bass": "c3b29bdce8c4fa17ec609e16220330ab",
    "kuielab_b_drums": "4910e7827f335048bdac11fa967772f9",
    "kuielab_b_other": "65ab5919372a128e4167f5e01a8fda85",
    "kuielab_b_vocals": "6b31de20e84392859a3d09d43f089515",
    "reverb_hq_by_foxjoy": "cd5b2989ad863f116c855db1dfe24e39",
    "uvr-mdx-net-inst_full_292": "b06327a00d5e5fbc7d96e1781bbdb596",
    "uvr-mdx-net-inst_hq_3": "55657dd70583b0fedfba5f67df11d711",
    "uvr-mdx-net-inst_hq_4": "0f2a6bc5b49d87d64728ee40e23bceb1",
    "uvr-mdx-net-inst_hq_5": "cb790d0c913647ced70fc6b38f5bea1a",
    "uvr-mdx-net-inst_main": "1c56ec0224f1d559c42fd6fd2a67b154",
    "uvr-mdx-net-voc_ft": "77d07b2667ddf05b9e3175941b4454a0",
    "uvr-mdx-net_crowd_hq_1": "b02be2d198d4968a121030cf8950b492",
    "uvr_mdxnet_1_9703": "a3cd63058945e777505c01d2507daf37",
    "uvr_mdxnet_2_9682": "d94058f8c7f1fae4164868ae8ae66b20",
    "uvr_mdxnet_3_9662": "d7bff498db9324db933d913388cba6be",
    "uvr_mdxnet_9482": "0ddfc0eb5792638ad5dc27850236c246",
    "uvr_mdxnet_kara": "2f5501189a2f6db6349916fabe8c90de",
    "uvr_mdxnet_kara_2": "1d64a6d2c30f709b8c9b4ce1366d96ee",
}


def registered(path: Path, data: bytes, bins: int) -> MdxModel | None:
    """The line for the file `path`, which holds `data` and a network of so many bins, by its end or else by its name."""
    end = hashlib.md5(data[-END_BYTES:], usedforsecurity=False).hexdigest()
    model = REGISTRY.get(end) or REGISTRY.get(NAMES.get(path.stem.lower(), ""))
    return model if model is not None and model.bins == bins else None
