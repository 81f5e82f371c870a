#!/usr/bin/env python3
"""Makes solver.json: what an independent numpy implementation of MR-GPTQ makes of small linears.

Run   python make_solver_golden.py PATH/TO/mr_gptq_ref.py > solver.json

Inputs are whole numbers from a generator of four lines, so that the file need not hold them and their second moment is exact.
"""
import importlib.util
import json
import sys

import numpy as np

OUTPUTS, INPUTS, TOKENS = 10, 160, 512


def draws(count, seed):
    """Whole numbers from -16 to 15: the top bits of a linear congruential generator."""
    state, out = seed, []
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        out.append((state >> 59) - 16)
    return np.array(out, np.float32)


def inputs():
    weights = draws(OUTPUTS * INPUTS, 1).reshape(OUTPUTS, INPUTS)
    weights = (weights + draws(OUTPUTS * INPUTS, 2).reshape(OUTPUTS, INPUTS) / 32) / 64
    x = draws(TOKENS * INPUTS, 3).reshape(TOKENS, INPUTS)
    x[:, 1:] += np.trunc(x[:, :-1] / 2)          # neighbours depend on one another
    x[:, 3::7] *= 3                              # and differ in size
    return weights.astype(np.float32), x.astype(np.float32)


def main():
    spec = importlib.util.spec_from_file_location("reference", sys.argv[1])
    ref = importlib.util.module_from_spec(spec)
    sys.modules["reference"] = ref
    spec.loader.exec_module(ref)
    weights, x = inputs()
    formats = {
        "int4": ref.Format("int4", 32),
        "int3": ref.Format("int4", 32, bits=3),
        "fp4": ref.Format("fp4", 32),
        "nvfp4": ref.Format("nvfp4", 16),
        "mxfp4": ref.Format("mxfp4", 32),
        "mxfp4 ocp": ref.Format("mxfp4", 32, mxfp_pow2_only=True),
    }
    cases = []
    for name, fmt in formats.items():
        for rotation in (None, 32):
            for actorder in (True, False):
                r = ref.quantize_layer(weights.copy(), x, fmt, actorder=actorder, mode="babai", rot=rotation)
                w = ref.rotate_blocks(weights, rotation) if rotation else weights
                h = ref.HessianAccumulator(INPUTS)
                h.add(ref.rotate_blocks(x, rotation) if rotation else x)
                halves = 2 * r.q / np.repeat(r.scales, fmt.group, axis=0).T
                assert np.abs(halves - np.rint(halves)).max() < 1e-4
                cases.append({
                    "format": name,
                    "rotation": rotation,
                    "act_order": actorder,
                    "group": fmt.group,
                    "error": ref.layer_error(w, r.q, h.h),
                    # In halves of the scale, output by output: a is -16, b is -15, and so on.
                    "halves": "".join(chr(ord("a") + 16 + int(v)) for v in np.rint(halves).ravel()),
                })
    json.dump({"outputs": OUTPUTS, "inputs": INPUTS, "tokens": TOKENS, "cases": cases}, sys.stdout, separators=(",", ":"))


if __name__ == "__main__":
    main()
