"""Which family a generator belongs to, by its name.

The families are those that surveys of the field tell apart: adversarial networks, diffusion models,
autoencoders (decoders of a latent code alone), autoregressive models of tokens, networks with a
perceptual loss and low-level vision as in Wang et al. 2020 ("CNN-generated images are surprisingly
easy to spot... for now"), face manipulation, and plain upsampling.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from lydite.errors import DataError, unknown_name

#: patterns of lower-case names without "-", "_", "." and spaces; the first family that fits counts
FAMILIES: dict[str, tuple[str, ...]] = {
    "autoencoder": ("*vae", "*vae[0-9]*", "*autoencoder*", "*tinyae*", "taesd*", "taef*",
                    "simlatent"),
    "autoregressive": ("dalle", "dalle1", "dallemini*", "craiyon*", "parti", "var*", "llamagen*",
                       "imagegpt*", "pixelcnn*", "gptimage*", "gpt4o*", "cogview", "cogview2",
                       "janus*", "infinity*", "emu3*", "taming*"),
    "face-manipulation": ("deepfake*", "faceswap*", "face2face*", "faceshifter*", "neuraltexture*",
                          "simswap*", "fsgan*", "whichfaceisfake*"),
    "gan": ("*gan", "*gan[!a-z]*", "*ganv[0-9]*", "*ganxl*", "*ganada*", "gansformer*", "spade*",
            "whichfaceisreal*"),
    "perceptual-loss": ("crn", "imle"),
    "low-level": ("san", "sitd", "seeingdark*"),
    "diffusion": ("*diffusion*", "*ddpm*", "ddim*", "pndm*", "adm", "adm[!a-z]*", "guided*", "ldm*",
                  "edm*", "dit", "dit[!a-z]*", "sit[0-9]*", "lcm*", "vqdm*", "glide*", "glid3*",
                  "sd[0-9]*", "sdxl*", "sdv[0-9]*", "stable*", "flux*", "pixart*", "wukong*",
                  "midjourney*", "dalle[23]*", "imagen", "imagen[0-9]*", "kandinsky*", "deepfloyd*",
                  "cogview[34]*", "disco*", "majesty*", "simulacra*", "playground*", "firefly*",
                  "ideogram*", "recraft*", "hunyuan*", "qwenimage*", "zimage*", "sana*"),
    "upsampling": ("simtransposed", "simnearest", "simbilinear"),
}  # fmt: skip


def family_of(generator: str, further: Mapping[str, Iterable[str]] = {}) -> str | None:
    """Return a generator's family, None where no pattern fits.

    Args:
        generator: its name.
        further: names or patterns of generators by family, looked at before the built-in table;
            letters' case does not matter.

    >>> family_of("StarGAN_v2"), family_of("sd1-pets"), family_of("who knows")
    ('gan', 'diffusion', None)
    """
    for family, patterns in further.items():
        if any(fnmatchcase(generator.lower(), pattern.lower()) for pattern in patterns):
            return family
    plain = re.sub(r"[-_. ]", "", generator.lower())
    for family, known in FAMILIES.items():
        if any(fnmatchcase(plain, pattern) for pattern in known):
            return family
    return None


def families_of(
    generators: Iterable[str], further: Mapping[str, Iterable[str]]
) -> dict[str, list[str]]:
    """Return the generators of each family, sorted.

    Args:
        generators: their names.
        further: see `family_of`.

    Raises:
        DataError: a pattern of `further` fits no generator, or a generator has no family.
    """
    names = sorted(set(generators))
    for pattern in (pattern for patterns in further.values() for pattern in patterns):
        if not any(fnmatchcase(name.lower(), pattern.lower()) for name in names):
            raise DataError(f"`families`: {unknown_name('generator', pattern, names)}")
    found: dict[str, list[str]] = {}
    strange = []
    for name in names:
        family = family_of(name, further)
        if family is None:
            strange.append(name)
        else:
            found.setdefault(family, []).append(name)
    if strange:
        raise DataError(
            f"No family is known of the generators {', '.join(strange)}. Name it in the protocol: "
            f"`families: {{NAME: [{strange[0]}]}}`."
        )
    return dict(sorted(found.items()))
