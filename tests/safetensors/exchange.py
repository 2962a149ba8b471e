#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Layers go from PyTorch into C++ and back, through safetensors files.

    /usr/bin/python3 exchange.py PROGRAM FOLDER      # apt-get install python3-torch

Writes FOLDER/from_python.safetensors, has PROGRAM (exchange.cpp) read it, and reads the
FOLDER/from_cpp.safetensors that it wrote. There the layers' results before training, in training and
after one batch of it have to be PyTorch's, or for the conventions of Keras, Flax and ONNX those of
their documentation, and the trained layers have to load into PyTorch's and give the same again.
Debian has no safetensors for Python; the format is a dozen lines.
"""
import copy
import json
import math
import struct
import subprocess
import sys

import torch

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
          "I64": torch.int64}


def save(path, tensors, metadata):
    header, data = {"__metadata__": metadata}, b""
    for name, t in tensors.items():
        t = t.detach().contiguous()
        raw = (t.view(torch.int16) if t.dtype == torch.bfloat16 else t).numpy().tobytes()
        dtype = next(key for key, value in DTYPES.items() if value == t.dtype)
        header[name] = {"dtype": dtype, "shape": list(t.shape),
                        "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def load(path):
    with open(path, "rb") as file:
        size, = struct.unpack("<Q", file.read(8))
        header, data = json.loads(file.read(size)), bytearray(file.read())
    metadata = header.pop("__metadata__", {})
    tensors = {name: torch.frombuffer(data, dtype=DTYPES[e["dtype"]], count=math.prod(e["shape"]),
                                      offset=e["data_offsets"][0]).reshape(e["shape"])
               for name, e in header.items()}
    return tensors, metadata


def check_close(what, got, expected, bound):
    error = ((got.double() - expected.double()).abs() / expected.double().abs().clamp(min=1)).max()
    if got.shape != expected.shape or not error <= bound:
        sys.exit(f"{what}: off by {error:.2e}, more than {bound:.0e}")


program, folder = sys.argv[1:]
torch.manual_seed(1)
tensors, metadata, layers = {}, {}, {}


def layer_of(name, module, shape, saved_as):
    """A layer with random numbers, as saved in that type; `module` computes with the saved numbers."""
    for key, t in module.state_dict().items():
        if key == "num_batches_tracked":
            t.fill_(7)
        else:
            t.copy_((torch.rand_like(t) + 0.5 if key == "running_var" else torch.randn_like(t)))
            t.copy_(t.to(saved_as))
        tensors[f"{name}.{key}"] = t if key == "num_batches_tracked" else t.to(saved_as)
    tensors[f"data.{name}.x"] = torch.randn(shape, dtype=next(iter(module.buffers())).dtype) * 2 + 1
    layers[name] = module


def tell(name, module):
    metadata[f"{name}.eps"] = repr(module.eps)
    metadata[f"{name}.momentum"] = ("cumulative" if module.momentum is None
                                    else f"weight_of_new {module.momentum!r}")
    metadata[f"{name}.running_variance"] = "unbiased"


layer_of("float", torch.nn.BatchNorm2d(5, eps=1e-3, momentum=0.3), (4, 5, 6, 7), torch.float32)
layer_of("double", torch.nn.BatchNorm3d(3).double(), (2, 3, 4, 2, 3), torch.float64)
layer_of("average", torch.nn.BatchNorm1d(4, momentum=None).double(), (3, 4, 5), torch.float64)
layer_of("half", torch.nn.BatchNorm1d(6), (9, 6), torch.float16)
layer_of("bfloat16", torch.nn.BatchNorm2d(6), (2, 6, 3, 3), torch.bfloat16)
for name, module in layers.items():
    tell(name, module)
layer_of("bare", torch.nn.BatchNorm2d(3, affine=False).double(), (2, 3, 4, 4), torch.float64)

# Keras, Flax and ONNX: running = w * running + (1 - w) * batch, by the population variance.
CONVENTIONS = {"keras": ("gamma beta moving_mean moving_variance", 1e-3, 0.99),
               "flax": ("scale bias mean var", 1e-5, 0.99),
               "onnx": ("weight bias running_mean running_var", 1e-5, 0.9)}
for name, (keys, eps, w) in CONVENTIONS.items():
    for key in keys.split():
        t = torch.randn(4, dtype=torch.float64)
        tensors[f"{name}.{key}"] = t.abs() if key.endswith(("var", "variance")) else t
    tensors[f"data.{name}.x"] = torch.randn(8, 4, dtype=torch.float64) + 1

save(f"{folder}/from_python.safetensors", tensors, metadata)
subprocess.run([program, f"{folder}/from_python.safetensors", f"{folder}/from_cpp.safetensors"],
               check=True)
got, said = load(f"{folder}/from_cpp.safetensors")

for name, module in layers.items():
    x = tensors[f"data.{name}.x"]
    # Float results carry roundings of 6e-8: some in PyTorch, some here.
    bound = 1e-12 if x.dtype == torch.float64 else 3e-6
    exact = copy.deepcopy(module).double()
    results = {}
    with torch.no_grad():
        for step, mode in (("before", False), ("training", True), ("after", False)):
            module.train(mode), exact.train(mode)
            results[step] = module(x)
            check_close(f"{name}, {step}", got[f"{name}.{step}"], results[step], bound)
            check_close(f"{name}, {step}, exactly", got[f"{name}.{step}"], exact(x.double()), bound)
        state = {key: got[f"{name}.{key}"] for key in module.state_dict()}
        for key, t in module.state_dict().items():
            check_close(f"{name}, {key}", state[key], t, bound)
        module.load_state_dict(state)  # strict: no key too many, none too few
        check_close(f"{name}, loaded", module(x), got[f"{name}.after"], bound)
    if float(said[f"{name}.eps"]) != module.eps:
        sys.exit(f"{name}: eps came back as {said[f'{name}.eps']}")
    momentum = "cumulative" if module.momentum is None else f"weight_of_new {module.momentum!r}"
    if said[f"{name}.momentum"] != momentum or said[f"{name}.running_variance"] != "unbiased":
        sys.exit(f"{name}: momentum came back as {said[f'{name}.momentum']}")

for name, (keys, eps, w) in CONVENTIONS.items():
    gamma, beta, mean, var = (tensors[f"{name}.{key}"] for key in keys.split())
    x = tensors[f"data.{name}.x"]
    mu, sigma2 = x.mean(0), ((x - x.mean(0)) ** 2).mean(0)
    after_mean, after_var = w * mean + (1 - w) * mu, w * var + (1 - w) * sigma2
    for step, m, v in (("before", mean, var), ("training", mu, sigma2),
                       ("after", after_mean, after_var)):
        expected = gamma * (x - m) / (v + eps).sqrt() + beta
        check_close(f"{name}, {step}", got[f"{name}.{step}"], expected, 1e-12)
    check_close(f"{name}, mean", got[f"{name}.running_mean"], after_mean, 1e-12)
    check_close(f"{name}, variance", got[f"{name}.running_var"], after_var, 1e-12)

print(f"{len(layers)} layers of PyTorch {torch.__version__} and {len(CONVENTIONS)} conventions agree")
