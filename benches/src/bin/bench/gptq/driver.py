"""Runs the numpy reference step by step, as `bench gptq --numpy` asks: a JSON object a line in, one a line out.

Run   python driver.py PATH/TO/mr_gptq_ref.py
"""
import importlib.util
import json
import sys
import time

import numpy as np

spec = importlib.util.spec_from_file_location("reference", sys.argv[1])
ref = importlib.util.module_from_spec(spec)
sys.modules["reference"] = ref
spec.loader.exec_module(ref)

FORMATS = {"int4": ref.FORMATS["int4_g128"], "nvfp4": ref.FORMATS["nvfp4"], "mxfp4": ref.FORMATS["mxfp4"]}
weights = x = None


def inputs(outputs, inputs, tokens, folder):
    """the reference's own draws, kept and written down"""
    global weights, x
    ref.REAL_WORKLOADS["asked"] = (outputs, inputs, tokens)
    weights, x = ref.make_inputs("asked")
    weights.tofile(f"{folder}/weights")
    x.tofile(f"{folder}/x")
    return {}


def gemm():
    s = np.random.default_rng(0).standard_normal((2048, 2048)).astype(np.float32)
    s @ s
    start = time.perf_counter()
    s @ s
    return {"gflops": 2 * 2048**3 / (time.perf_counter() - start) / 1e9}


def run(format, rotation):
    return ref.quantize_layer(weights, x, FORMATS[format], mode="babai", rot=rotation).ms


def error(format, rotation):
    fmt = FORMATS[format]
    w, rotated = (ref.rotate_blocks(a, rotation) if rotation else a for a in (weights, x))
    h = ref.HessianAccumulator(w.shape[1])
    h.add(rotated)
    result = ref.quantize_layer(w.copy(), rotated, fmt, mode="babai")
    return {"gptq": ref.layer_error(w, result.q, h.h), "rtn": ref.layer_error(w, ref.rtn(w, fmt)[0], h.h)}


VERBS = {"inputs": inputs, "gemm": gemm, "run": run, "error": error}
print(json.dumps({"numpy": np.__version__}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    print(json.dumps(VERBS[request.pop("do")](**request)), flush=True)
