#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Trains LeNet with batch norms on Fashion-MNIST in PyTorch and saves it as a safetensors file.

    apt-get install python3-torch dataset-fashion-mnist
    /usr/bin/python3 examples/load_pytorch_weights/train.py lenet.safetensors [--epochs 1] [--images 0]
    sh examples/run.sh load_pytorch_weights lenet.safetensors

Debian has no safetensors for Python, so save() writes the format itself, in a dozen lines. Where the
package is at hand, safetensors.torch.save_file(tensors, path, metadata) does the same.
"""
import argparse
import gzip
import json
import struct

import numpy as np
import torch
from torch import nn

DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.int64: "I64"}


def save(tensors, path, metadata):
    header, data = {"__metadata__": metadata}, b""
    for name, tensor in tensors.items():
        raw = tensor.detach().contiguous().numpy().tobytes()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape),
                        "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def batch_norm_metadata(model):
    """What a state_dict leaves out and eval mode needs: eps; and momentum, to go on training."""
    metadata = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            metadata[f"{name}.eps"] = repr(module.eps)
            metadata[f"{name}.momentum"] = ("cumulative" if module.momentum is None
                                            else f"weight_of_new {module.momentum!r}")
            metadata[f"{name}.running_variance"] = "unbiased"
    return metadata


class Flatten(nn.Module):
    """Part of a linear layer here, so that layers have the numbers that they have in C++."""

    def __init__(self, *size):
        super().__init__()
        self.linear = nn.Linear(*size)

    def forward(self, x):
        return self.linear(x.flatten(1))


parser = argparse.ArgumentParser()
parser.add_argument("file")
parser.add_argument("--epochs", type=int, default=1)
parser.add_argument("--images", type=int, default=0, help="of each set; 0: all")
parser.add_argument("--data", default="/usr/share/datasets/fashion-mnist")
args = parser.parse_args()
torch.manual_seed(0)


def read(name, header):
    with gzip.open(f"{args.data}/{name}-ubyte.gz") as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)


def load(split):
    images = read(f"{split}-images-idx3", 16).reshape(-1, 1, 28, 28).astype(np.float32) / 255
    labels = read(f"{split}-labels-idx1", 8).astype(np.int64)
    count = args.images or len(labels)
    return torch.from_numpy(images[:count]), torch.from_numpy(labels[:count])


model = nn.Sequential(
    nn.Conv2d(1, 6, 5, padding=2), nn.BatchNorm2d(6), nn.Sigmoid(), nn.AvgPool2d(2),
    nn.Conv2d(6, 16, 5), nn.BatchNorm2d(16), nn.Sigmoid(), nn.AvgPool2d(2),
    Flatten(400, 120), nn.BatchNorm1d(120), nn.Sigmoid(),
    nn.Linear(120, 84), nn.BatchNorm1d(84), nn.Sigmoid(),
    nn.Linear(84, 10))
train_images, train_labels = load("train")
test_images, test_labels = load("t10k")
optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
for epoch in range(args.epochs):
    for batch in torch.randperm(len(train_labels)).split(256):
        if len(batch) < 2:
            break
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(train_images[batch]), train_labels[batch]).backward()
        optimizer.step()

model.eval()
with torch.no_grad():
    predictions = torch.cat([model(x).argmax(1) for x in test_images.split(256)])
tensors = {name.replace(".linear", ""): t for name, t in model.state_dict().items()}
tensors["predictions"] = predictions
save(tensors, args.file, batch_norm_metadata(model))
accuracy = (predictions == test_labels).float().mean().item()
print(f"{args.file}: {len(tensors)} tensors, test accuracy {accuracy:.4f}")
