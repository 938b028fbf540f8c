"""Writes rope_angles.csv: cosines and sines of rotary angles to 60 digits, rounded once to f64.

Needs mpmath (1.3). Every rule is written here from its formula and shares nothing with the crate.
Positions go up to 2^20: the ends, random ones, and the hardest ones, where sine or cosine of the
pair come closest to zero (denominators of continued fractions for the sine, a full search for the
cosine), since an absolute error of the angle is a relative error there.
"""

import random

import mpmath as mp

mp.mp.dps = 60
LAST = 2**20
L0 = 4096


def series(theta, r):
    return [mp.mpf(theta) ** (-mp.mpf(2 * i) / r) for i in range(r // 2)]


def clamp(x):
    return min(max(x, mp.mpf(0)), mp.mpf(1))


def yarn(theta, r, s):
    """Ramp over the index; bounds of 32 and 1 rotations, rounded outwards."""
    def index(beta):
        return r * mp.log(L0 / (2 * mp.pi * beta)) / (2 * mp.log(theta))

    low, high = max(mp.floor(index(32)), 0), min(mp.ceil(index(1)), r - 1)
    ramps = [clamp((i - low) / (high - low)) for i in range(r // 2)]
    return [f / s * t + f * (1 - t) for f, t in zip(series(theta, r), ramps)]


def yarn_rotations(theta, r, s):
    """Ramp over the number of rotations, from 1 to 32."""
    def blend(f):
        gamma = clamp((L0 * f / (2 * mp.pi) - 1) / 31)
        return (1 - gamma) * f / s + gamma * f

    return [blend(f) for f in series(theta, r)]


def llama3(theta, r, s):
    """Low and high frequency factor 1 and 4."""
    def blend(f):
        wavelength = 2 * mp.pi / f
        if wavelength < mp.mpf(L0) / 4:
            return f
        if wavelength > L0:
            return f / s
        t = (L0 / wavelength - 1) / 3
        return (1 - t) * f / s + t * f

    return [blend(f) for f in series(theta, r)]


def ntk(theta, r, s):
    return series(theta * mp.mpf(s) ** (mp.mpf(r) / (r - 2)), r)


RULES = {
    "default": lambda theta, r, s: series(theta, r),
    "linear": lambda theta, r, s: [f / s for f in series(theta, r)],
    "ntk": ntk,
    "yarn": yarn,
    "yarn_rotations": yarn_rotations,
    "llama3": llama3,
}

CASES = [
    ("default", 10000, 4, 1),
    ("default", 10000, 64, 1),
    ("default", 10000, 128, 1),
    ("default", 500000, 128, 1),
    ("default", 1000000, 128, 1),
    ("default", 100, 80, 1),
    ("linear", 10000, 64, 3),
    ("ntk", 10000, 64, 8),
    ("yarn", 10000, 128, 32),
    ("yarn_rotations", 10000, 128, 32),
    ("llama3", 500000, 128, 8),
]


def sine_near_zero(frequency):
    """The last two denominators <= LAST of the continued fraction of frequency / pi."""
    x, previous, current, found = frequency / mp.pi, 0, 1, []
    while True:
        x -= mp.floor(x)
        if x == 0:
            break
        x = 1 / x
        previous, current = current, int(mp.floor(x)) * current + previous
        if current > LAST:
            break
        found.append(current)
    return found[-2:]


def cosine_near_zero(frequency):
    """The position <= LAST whose angle is closest to an odd multiple of pi / 2."""
    step = int(mp.nint(frequency / mp.pi * 2**100))
    half, mask = 2**99, 2**100 - 1
    return min(range(1, LAST + 1), key=lambda p: abs(((p * step) & mask) - half))


def main():
    rng = random.Random(1)
    rows = ["rule,theta,rotary_dim,factor,pair,position,cos,sin"]
    for rule, theta, r, s in CASES:
        frequencies = RULES[rule](theta, r, s)
        pairs = sorted({0, 1, r // 2 - 1, *rng.sample(range(r // 2), min(r // 2, 6))})
        for pair in pairs:
            f = frequencies[pair]
            positions = {0, 1, LAST - 1, LAST, *(rng.randrange(LAST) for _ in range(3))}
            positions.update(sine_near_zero(f))
            positions.add(cosine_near_zero(f))
            for p in sorted(positions):
                cos, sin = float(mp.cos(p * f)), float(mp.sin(p * f))
                rows.append(f"{rule},{theta},{r},{s},{pair},{p},{cos!r},{sin!r}")
    with open("rope_angles.csv", "w") as file:
        file.write("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
