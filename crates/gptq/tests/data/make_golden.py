#!/usr/bin/env python3
"""Makes golden.safetensors: values of the number formats, packings and scales that this crate did not compute.

Two sources: `mr_gptq_ref.py` of the specification, in numpy, and the `compressed-tensors` package, in torch.

    pip install numpy torch compressed-tensors safetensors
    TREILLAGE_SHARED=../shared python crates/gptq/tests/data/make_golden.py
"""
import os
import sys
import zlib
from pathlib import Path

import numpy as np
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import dequantize
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(os.environ.get("TREILLAGE_SHARED", "../shared")) / "spec"))
import mr_gptq_ref as ref  # noqa: E402

F32 = np.float32
OUT, IN = 9, 256
golden: dict[str, np.ndarray] = {}


def put(name, array, dtype=None):
    golden[name] = np.ascontiguousarray(np.asarray(array, dtype=dtype))


def checksum(name, decoded):
    """Of the decoded matrix, zeros positive: what it is made of is stored beside it, one by one."""
    decoded = np.ascontiguousarray(decoded, F32) + F32(0)
    put(f"{name}.crc32", [zlib.crc32(decoded.tobytes())], np.uint32)


def weights():
    """Rows of different size, a group of zeros, an outlier, a group that is positive throughout."""
    w = np.random.default_rng(20).standard_normal((OUT, IN)).astype(F32)
    w *= np.array([1, 0.02, 30, 0.7, 1e-3, 3, 1, 0.3, 0.05], F32)[:, None]
    w[0, 128:256] = 0
    w[3, 40] = 9.5
    w[5, 64:96] = np.abs(w[5, 64:96])
    return w


def number_grids():
    rng = np.random.default_rng(1)
    edges = np.concatenate([ref.E2M1_MID, ref.E2M1_MAG])
    edges = np.concatenate([edges, np.nextafter(edges, F32(9)), np.nextafter(edges, F32(-9))])
    x = np.concatenate([edges, -edges, rng.standard_normal(256).astype(F32) * 3, [F32(1e30), F32(-1e30)]])
    x = x.astype(F32)
    put("e2m1.x", x)
    put("e2m1.codes", ref.e2m1_codes(x))
    put("e2m1.rounded", ref.e2m1_round(x))

    put("e4m3.values", ref.E4M3_TABLE)
    tab = ref.E4M3_TABLE[:0x7F].astype(np.float64)
    mids = ((tab[:-1] + tab[1:]) / 2).astype(F32)
    mids = np.concatenate([mids, np.nextafter(mids, F32(1e9)), np.nextafter(mids, F32(-1e9))])
    spread = rng.standard_normal(256) * 2.0 ** rng.integers(-12, 10, 256)
    x = np.concatenate([mids, -mids, spread.astype(F32), F32([np.inf, -np.inf, 1e-30, -0.0, 464, 465])]).astype(F32)
    put("e4m3.x", x)
    put("e4m3.codes", ref.e4m3_encode(x))

    powers = 2.0 ** np.arange(-126, 127, 7)
    a = np.concatenate([powers, powers * 1.5, powers * 1.75, powers * 1.999]).astype(F32)
    a = np.concatenate([a, np.nextafter(a, F32(0)), F32([0, 1e-40, 3.4e38])]).astype(F32)
    put("e8m0.absmax", a)
    put("e8m0.ocp", ref.e8m0_from_absmax(a))
    put("e8m0.ct", ref.e8m0_ct(a))
    floor_log2 = np.frexp(np.maximum(a, F32(2.0**-126)))[1] - 1
    put("e8m0.fpq", floor_log2 + 127, np.uint8)
    put("e8m0.values", ref.e8m0_value(np.arange(255)))


def packing():
    rng = np.random.default_rng(2)
    for bits in (2, 3, 4, 8):
        codes = rng.integers(0, 2**bits, (37, 45), dtype=np.uint8)
        signed = torch.from_numpy(codes.astype(np.int16) - 2 ** (bits - 1)).to(torch.int8)
        rows = pack_to_int32(signed, bits, packed_dim=1).numpy()
        columns = pack_to_int32(signed, bits, packed_dim=0).numpy()
        if bits != 3:
            assert np.array_equal(rows, ref.pack_int_rows_i32(codes, bits))
        put(f"pack{bits}.codes", codes)
        put(f"pack{bits}.rows", rows, np.int32)
        put(f"pack{bits}.columns", columns, np.int32)
    for bits in (2, 4, 8):
        codes = rng.integers(0, 2**bits, (5, 64), dtype=np.uint8)
        put(f"gptq{bits}.codes", codes)
        put(f"gptq{bits}.qweight", ref.pack_gptq_qweight(codes, bits), np.int32)
    codes = rng.integers(0, 16, (3, 22), dtype=np.uint8)
    put("nibbles.codes", codes)
    put("nibbles.packed", ref.pack_nibbles(codes))


def minmax():
    """Scales by largest magnitude, codes to nearest, and what they decode to, as the reference has them."""
    w = weights()
    put("w", w)
    wt = np.ascontiguousarray(w.T)
    formats = {
        "int2_g64": ref.Format("int4", 64, bits=2),
        "int3_g32": ref.Format("int4", 32, bits=3),
        "int4_g128": ref.Format("int4", 128),
        "int4_g32": ref.Format("int4", 32),
        "int8_g128": ref.Format("int4", 128, bits=8),
        "fp4_g128": ref.Format("fp4", 128),
        "nvfp4": ref.Format("nvfp4", 16),
        "mxfp4_ocp": ref.Format("mxfp4", 32, mxfp_pow2_only=True),
        "mxfp4_fpq": ref.Format("mxfp4", 32),
    }
    for name, fmt in formats.items():
        q, s, extra = ref.rtn(w, fmt)
        checksum(name, q)
        x = (wt / np.repeat(s, fmt.group, axis=0)).T
        if fmt.name == "int4":
            put(f"{name}.codes", np.rint(q / np.repeat(s, fmt.group, axis=0).T) + 2 ** (fmt.bits - 1), np.uint8)
        else:
            put(f"{name}.codes", ref.e2m1_codes(x))
        if "scale_bytes" in extra:
            stored = extra["scale_bytes"]
            if name == "mxfp4_fpq":
                # FP-Quant stores the exponent as it is; the division by 3 makes up for the missing −2.
                absmax = np.abs(wt.reshape(-1, 32, OUT)).max(axis=1)
                stored = np.frexp(np.maximum(absmax, F32(2.0**-126)))[1] - 1 + 127
            # The reference leaves byte 0 to the writer: it must not be written, so this is the smallest.
            least = 1 if fmt.name == "nvfp4" else 0
            put(f"{name}.scales", np.maximum(stored, least).T, np.uint8)
            put(f"{name}.global", [extra["global_scale"]], F32)
        else:
            put(f"{name}.scales", s.T.astype(np.float16))

    # The reference has no rule of compressed-tensors' for scales in its solver: its bytes, and its grid.
    s = ref.e8m0_ct(np.abs(wt.reshape(-1, 32, OUT)).max(axis=1))
    se = np.repeat(ref.e8m0_value(s), 32, axis=0)
    put("mxfp4_ct.scales", s.T)
    put("mxfp4_ct.global", [1], F32)
    put("mxfp4_ct.codes", ref.e2m1_codes(wt / se).T)
    checksum("mxfp4_ct", (ref.e2m1_round(wt / se) * se).T)

    # bfloat16 scales are numpy's lack; torch rounds them.
    s = torch.from_numpy(2 * np.abs(w.reshape(OUT, -1, 128)).max(axis=2) / F32(15)).bfloat16()
    s[s == 0] = 1
    se = np.repeat(s.float().numpy(), 128, axis=1)
    codes = np.clip(np.rint(w / se), -8, 7)
    put("int4_bf16.scales", s.view(torch.int16).numpy().view(np.uint16))
    put("int4_bf16.codes", codes + 8, np.uint8)
    checksum("int4_bf16", (codes * se).astype(F32))

    for bits in (2, 4, 8):
        grouped = w.reshape(OUT, -1, 32)
        lo, hi = np.minimum(grouped.min(axis=2), 0), np.maximum(grouped.max(axis=2), 0)
        most = 2**bits - 1
        s = ((hi - lo) / F32(most)).astype(np.float16).astype(F32)
        s[s == 0] = 1
        zero = np.clip(np.rint(-lo / s), 0, most).astype(F32)
        se, ze = np.repeat(s, 32, axis=1), np.repeat(zero, 32, axis=1)
        codes = np.clip(np.rint(w / se) + ze, 0, most)
        put(f"asym{bits}_g32.scales", s.astype(np.float16))
        put(f"asym{bits}_g32.zeros", zero, np.uint8)
        put(f"asym{bits}_g32.codes", codes, np.uint8)
        checksum(f"asym{bits}_g32", ((codes - ze) * se).astype(F32))


def compress(name, group, snap, **args):
    """What compressed-tensors' own compressor `name` stores of the weights, and what it loads again."""
    w = torch.from_numpy(weights())
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(group_size=group, **args))
    grouped = w.unflatten(1, (-1, group))
    glob = None
    if args["strategy"] == "tensor_group":
        glob = generate_gparam(w.min(), w.max())
    scale, zero = calculate_qparams(grouped.amin(2), grouped.amax(2), scheme.weights, global_scale=glob)
    if snap:
        scale = scale.to(torch.float16)
        # It has a tiny scale for groups of zeros, we have 1.
        scale[grouped.abs().amax(2) == 0] = 1
        scale = scale.float()
    state = {"weight": w, "weight_scale": scale, "weight_zero_point": zero.to(torch.int8)}
    if glob is not None:
        state["weight_global_scale"] = glob.reshape(1)
    compressor = BaseCompressor.get_value_from_registry(name)
    packed = compressor.compress(state, scheme)
    if args["type"] == "int":
        return packed, compressor.decompress(packed, scheme)["weight"]
    # Its decompressor of floats works in bfloat16; these are the steps of it, in single precision.
    values = unpack_fp4_from_uint8(packed["weight_packed"], OUT, IN, torch.float32)
    loaded = compressor._decompress_scale(packed["weight_scale"], torch.float32)
    return packed, dequantize(values, loaded, args=scheme.weights, global_scale=glob, dtype=torch.float32)


def compressed_tensors():
    ints = dict(type="int", strategy="group")
    for bits, symmetric in ((4, True), (8, True), (4, False)):
        key = f"ct.int{bits}" + ("" if symmetric else "_asym")
        packed, w = compress("pack-quantized", 32, True, num_bits=bits, symmetric=symmetric, **ints)
        put(f"{key}.packed", packed["weight_packed"].numpy(), np.int32)
        put(f"{key}.scales", packed["weight_scale"].numpy().astype(np.float16))
        checksum(key, w.numpy())
        if not symmetric:
            put(f"{key}.zeros", packed["weight_zero_point"].numpy(), np.int32)

    floats = dict(num_bits=4, type="float", symmetric=True)
    packed, w = compress("nvfp4-pack-quantized", 16, False, strategy="tensor_group",
                         scale_dtype=torch.float8_e4m3fn, zp_dtype=torch.float8_e4m3fn, **floats)
    put("ct.nvfp4.packed", packed["weight_packed"].numpy())
    put("ct.nvfp4.scales", packed["weight_scale"].view(torch.uint8).numpy())
    put("ct.nvfp4.global", packed["weight_global_scale"].numpy())
    checksum("ct.nvfp4", w.numpy())

    packed, w = compress("mxfp4-pack-quantized", 32, False, strategy="group",
                         scale_dtype=torch.uint8, zp_dtype=torch.uint8, **floats)
    put("ct.mxfp4.packed", packed["weight_packed"].numpy())
    put("ct.mxfp4.scales", packed["weight_scale"].numpy())
    checksum("ct.mxfp4", w.numpy())


number_grids()
packing()
minmax()
compressed_tensors()
path = Path(__file__).with_name("golden.safetensors")
save_file(golden, path)
print(f"{path}: {path.stat().st_size} bytes, {len(golden)} tensors")
