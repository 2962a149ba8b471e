#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The fashion_mnist program in PyTorch, to compare seconds per epoch and accuracies side by side.

    apt-get install python3-torch dataset-fashion-mnist
    /usr/bin/python3 examples/fashion_mnist/pytorch_twin.py [--no-bn] [--epochs 3] [--batch 256] [--lr 1.0]

Same network, initialisation, batches of random order, and timing: the images lie in memory, and
seconds count the training steps alone. Pixels are in [0, 1].
"""
import argparse
import gzip
import time

import numpy as np
import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--model", choices=["lenet", "convbn"], default="lenet")
parser.add_argument("--no-bn", action="store_true")
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--batch", type=int, default=256)
parser.add_argument("--lr", type=float, default=1.0)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--data", default="/usr/share/datasets/fashion-mnist")
args = parser.parse_args()
torch.manual_seed(args.seed)
torch.set_num_threads(args.threads)


def read(name, header):
    with gzip.open(f"{args.data}/{name}-ubyte.gz") as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)


def load(split):
    images = read(f"{split}-images-idx3", 16).reshape(-1, 1, 28, 28).astype(np.float32) / 255
    labels = read(f"{split}-labels-idx1", 8).astype(np.int64)
    return torch.from_numpy(images), torch.from_numpy(labels)


def norm(layer):
    return [] if args.no_bn else [layer]


def lenet():
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), *norm(nn.BatchNorm2d(6)), nn.Sigmoid(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), *norm(nn.BatchNorm2d(16)), nn.Sigmoid(), nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120), *norm(nn.BatchNorm1d(120)), nn.Sigmoid(),
        nn.Linear(120, 84), *norm(nn.BatchNorm1d(84)), nn.Sigmoid(),
        nn.Linear(84, 10))


def convbn():
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), *norm(nn.BatchNorm2d(32)), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), *norm(nn.BatchNorm2d(64)), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(3136, 10))


def init(module):
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def accuracy(model, images, labels):
    model.eval()
    with torch.no_grad():
        hits = sum((model(x).argmax(1) == y).sum().item()
                   for x, y in zip(images.split(args.batch), labels.split(args.batch)))
    return hits / len(labels)


train_images, train_labels = load("train")
test_images, test_labels = load("t10k")
model = lenet() if args.model == "lenet" else convbn()
model.apply(init)
optimizer = torch.optim.SGD(model.parameters(), lr=args.lr)
loss_function = nn.CrossEntropyLoss()
for epoch in range(1, args.epochs + 1):
    model.train()
    loss_sum = hits = 0.0
    start = time.perf_counter()
    for batch in torch.randperm(len(train_labels)).split(args.batch):
        x, y = train_images[batch], train_labels[batch]
        optimizer.zero_grad()
        logits = model(x)
        loss = loss_function(logits, y)
        loss.backward()
        optimizer.step()
        loss_sum += loss.item() * len(y)
        hits += (logits.argmax(1) == y).sum().item()
    seconds = time.perf_counter() - start
    print(f"epoch {epoch}  loss {loss_sum / len(train_labels):.3f}  "
          f"train {hits / len(train_labels):.3f}  "
          f"test {accuracy(model, test_images, test_labels):.3f}  {seconds:.1f} s", flush=True)
