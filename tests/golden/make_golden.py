#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Makes the golden numbers that golden_test.cpp compares with: PyTorch's, in float64.

    apt-get install python3-torch        # 1.13 made the files in the repository
    /usr/bin/python3 make_golden.py      # writes the .txt files beside this script
    /usr/bin/python3 make_golden.py --check    # compares them instead; exit code 1 if they differ

Format: lines of a word and its values. `case` opens a case: the options, then the state that the
layer starts with. Each `step` within is one forward and backward, and what they leave behind:

    case 2d affine, train            the name
    eps 1e-05
    momentum weight_of_new 0.1       or weight_of_old 0.9, or cumulative
    running_variance unbiased        or population
    track 1                          with running statistics
    single_value reject              or accept
    gamma 1 0.5 2                    absent: no scale; so too with beta
    beta 0 0.25 -1
    running_mean 0 0 0               the start; absent without running statistics
    running_var 1 1 1
    step train 4 3 2 2               the mode and the shape (N, C, spatial axes)
    x, dy, y, dx                     row-major; the sum of dy * y is what is differentiated
    mean, inv_std                    what normalized the step, a value a channel
    dgamma, dbeta                    of this step alone
    running_mean, running_var, counter   after the step

Every input is a small multiple of 1/16, exact in double, float, half and bfloat16, so that all of
them start from the same numbers. Results have 14 digits.
"""
import argparse
import math
import pathlib
import random
import sys

import torch

FOLDER = pathlib.Path(__file__).resolve().parent
MODULES = {2: torch.nn.BatchNorm1d, 3: torch.nn.BatchNorm1d,
           4: torch.nn.BatchNorm2d, 5: torch.nn.BatchNorm3d}


class Case:
    """One layer, run step by step; its text grows in self.lines."""

    def __init__(self, name, shape, eps=1e-5, momentum=0.1, scale=True, shift=True, track=True,
                 fresh=False, population=False, accept=False):
        """fresh: start from PyTorch's initial state rather than from random numbers."""
        self.random = random.Random(name)  # each case keeps its numbers when others come or go
        self.shape, self.population, self.accept = shape, population, accept
        channels = shape[1]
        self.layer = MODULES[len(shape)](channels, eps, momentum, scale or shift, track).double()
        with torch.no_grad():
            if scale and not fresh:
                self.layer.weight.copy_(self.values((channels,), 0.25, 2))
            if shift and not fresh:
                self.layer.bias.copy_(self.values((channels,), -2, 2))
            if track and not fresh:
                self.layer.running_mean.copy_(self.values((channels,), -1, 1))
                self.layer.running_var.copy_(self.values((channels,), 0.5, 3))
        if shift and not scale:
            self.layer.register_parameter("weight", None)
        if scale and not shift:
            self.layer.register_parameter("bias", None)
        self.lines = [f"case {name}", f"eps {eps!r}",
                      "momentum cumulative" if momentum is None
                      else f"momentum weight_of_new {momentum!r}",
                      f"running_variance {'population' if population else 'unbiased'}",
                      f"track {int(track)}", f"single_value {'accept' if accept else 'reject'}"]
        self.put("gamma", self.layer.weight)
        self.put("beta", self.layer.bias)
        self.put("running_mean", self.layer.running_mean)
        self.put("running_var", self.layer.running_var)

    def values(self, shape, low=-2.5, high=2.5):
        """Random multiples of 1/16 in [low, high]. random() is the same in every Python."""
        count, steps = math.prod(shape), int((high - low) * 16) + 1
        flat = [low + math.floor(self.random.random() * steps) / 16 for _ in range(count)]
        return torch.tensor(flat, dtype=torch.float64).reshape(shape)

    def put(self, word, tensor):
        if tensor is not None:
            numbers = tensor.detach().reshape(-1).tolist()
            self.lines.append(" ".join([word] + [f"{number:.14g}" for number in numbers]))

    def step(self, training, shape=None):
        shape = shape or self.shape
        layer = self.layer.train(training)
        layer.zero_grad()
        x = self.values(shape).requires_grad_()
        dy = self.values(shape)
        batch_statistics = training or not layer.track_running_stats
        axes = [axis for axis in range(len(shape)) if axis != 1]
        n = x.numel() // shape[1]
        before = None if layer.running_var is None else layer.running_var.clone()
        if batch_statistics:
            mean, var = x.mean(axes), x.var(axes, unbiased=False)
        else:
            mean, var = layer.running_mean.clone(), layer.running_var.clone()

        if n == 1 and batch_statistics:
            y = self.single_value(x)
        else:
            y = layer(x)
        y.backward(dy)

        if self.population and training and before is not None:
            # PyTorch has no such option; its own mean of the squares takes the place of its update.
            weight = layer.momentum or 1 / int(layer.num_batches_tracked)
            layer.running_var.copy_((1 - weight) * before + weight * var.detach())

        self.lines.append(" ".join(map(str, ("step", "train" if training else "eval", *shape))))
        self.put("x", x)
        self.put("dy", dy)
        self.put("y", y)
        self.put("dx", x.grad)
        self.put("mean", mean)
        self.put("inv_std", 1 / torch.sqrt(var + layer.eps))
        self.put("dgamma", None if layer.weight is None else layer.weight.grad)
        self.put("dbeta", None if layer.bias is None else layer.bias.grad)
        self.put("running_mean", layer.running_mean)
        self.put("running_var", layer.running_var)
        if layer.track_running_stats:
            self.lines.append(f"counter {int(layer.num_batches_tracked)}")
        return self

    def single_value(self, x):
        """The module refuses one value per channel, the function beneath it does not."""
        layer = self.layer
        mean, var = layer.running_mean.clone(), layer.running_var.clone()
        y = torch.batch_norm(x, layer.weight, layer.bias, mean, var, True, layer.momentum,
                             layer.eps, False)
        layer.running_mean.copy_(mean)  # the variance, a division by n - 1 = 0, is left as it is
        layer.num_batches_tracked += 1
        return y


def both_modes(name, shape, **options):
    yield Case(f"{name}, train", shape, **options).step(True)
    yield Case(f"{name}, eval", shape, **options).step(False)


def module_matrix():
    """PyTorch's tests of its modules: every option, both modes, all ranks."""
    for name, shape in (("1d", (4, 10)), ("1d of sequences", (4, 5, 3)), ("2d", (2, 3, 3, 4)),
                        ("3d", (2, 3, 2, 1, 4))):
        yield from both_modes(f"{name} affine", shape)
        yield Case(f"{name} as constructed, train", shape, fresh=True).step(True)
        yield from both_modes(f"{name} cumulative average", shape, eps=1e-3, momentum=None)
        yield Case(f"{name} other momentum, train", shape, eps=1e-3, momentum=0.8).step(True)
        yield from both_modes(f"{name} not affine", shape, eps=1e-3, momentum=0.3, scale=False,
                              shift=False)
        yield from both_modes(f"{name} not tracking", shape, eps=1e-3, momentum=0.3, track=False)
        yield from both_modes(f"{name} no bias", shape, eps=1e-3, momentum=0.3, shift=False)
        yield Case(f"{name} empty batch, eval", shape).step(False, (0, *shape[1:]))


def op_matrix():
    """PyTorch's samples for its batch_norm function."""
    yield Case("momentum .5, eps .6", (5, 5, 5), eps=0.6, momentum=0.5).step(True)
    yield Case("eval of sequences", (3, 2, 4)).step(False)
    yield Case("one channel, momentum 0", (3, 1), momentum=0.0).step(True)
    yield from both_modes("eps .5", (3, 2, 3, 4), eps=0.5)
    yield Case("two samples of one channel", (2, 1)).step(True)


def tensorflow_shapes():
    """TensorFlow's shapes, (N, ..., C) there, the large ones made small; weights of new 1 and .6."""
    for momentum in (1.0, 0.6):
        for shape in ((1, 1, 1, 6), (1, 2, 1, 6), (1, 6, 2, 1), (2, 6, 3, 4), (1, 3, 2, 6, 1)):
            name = f"{'x'.join(map(str, shape))}, momentum {momentum}"
            yield from both_modes(name, shape, eps=1e-3, momentum=momentum)
        yield Case(f"one value, momentum {momentum}", (1, 1, 1, 1), eps=1e-3, momentum=momentum,
                   accept=True).step(True)


def onednn_channels():
    """oneDNN's: numbers of channels that no vector width divides; scale or shift alone."""
    for shape in ((2, 19, 1, 2), (4, 23), (2, 33, 2), (1, 19, 1, 2, 2)):
        name = "x".join(map(str, shape))
        yield from both_modes(f"{name} scale and shift", shape, eps=1e-4)
        yield from both_modes(f"{name} scale only", shape, eps=1e-4, shift=False)
        yield from both_modes(f"{name} shift only", shape, eps=1e-4, scale=False)
    yield from both_modes("2x19x1x2 neither", (2, 19, 1, 2), eps=1e-4, scale=False, shift=False)


def running_statistics():
    """Running statistics over batches of different sizes, with an eval step between and after."""
    for momentum in (0.0, 0.1, 0.5, 1.0, None):
        for population in (False, True):
            if population and momentum == 0.0:
                continue  # the same as unbiased: nothing moves
            variance = "population" if population else "unbiased"
            case = Case(f"momentum {momentum}, {variance}", (4, 3, 2, 2), momentum=momentum,
                        population=population, fresh=True)
            yield (case.step(True).step(True, (2, 3, 1, 3)).step(False, (1, 3, 2, 2))
                   .step(True, (1, 3, 2, 1)).step(True, (6, 3, 1, 1)).step(False))


GROUPS = (module_matrix, op_matrix, tensorflow_shapes, onednn_channels, running_statistics)


def text_of(group):
    lines = [f"# {group.__doc__.splitlines()[0]}",
             f"# Made by make_golden.py with PyTorch {torch.__version__}, in float64."]
    for case in group():
        lines += case.lines
    return "\n".join(lines) + "\n"


def same(made, kept):
    """Equal words, and numbers but for the last digits, which another processor may round otherwise."""
    def data(text):
        return [word for line in text.splitlines() if line[0] != "#" for word in line.split(" ")]

    def close(a, b):
        if a == b:
            return True
        try:
            return math.isclose(float(a), float(b), rel_tol=1e-11, abs_tol=1e-12)
        except ValueError:
            return False

    made, kept = data(made), data(kept)
    return len(made) == len(kept) and all(map(close, made, kept))


def main():
    parser = argparse.ArgumentParser(description="golden numbers from PyTorch")
    parser.add_argument("--check", action="store_true", help="compare with the files, write none")
    check = parser.parse_args().check
    torch.set_num_threads(1)
    failed = False
    for group in GROUPS:
        path, text = FOLDER / f"{group.__name__}.txt", text_of(group)
        if not check:
            path.write_text(text)
        elif same(text, path.read_text()):
            print(f"{path.name}: as PyTorch {torch.__version__} computes it")
        else:
            print(f"{path.name}: differs from what PyTorch {torch.__version__} computes now",
                  file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
