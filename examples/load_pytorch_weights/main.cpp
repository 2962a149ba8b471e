// SPDX-License-Identifier: MIT
// Runs a network that PyTorch trained on Fashion-MNIST (train.py, beside it): the same predictions.
// Debian packages: zlib1g-dev nlohmann-json3-dev dataset-fashion-mnist
// File: /usr/bin/python3 examples/load_pytorch_weights/train.py FILE (needs python3-torch)
// Time: a few seconds
#include <algorithm>
#include <batchnorm/safetensors.hpp>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include "models.hpp"
#include "tensors.hpp"

namespace {

/// Weights as they lie in memory, the same here and in PyTorch: (O, I, H, W) or (O, I), row-major.
nn::Vector<float> flat(batchnorm::SafetensorsReader& file, const std::string& name) {
  const auto flattened = [](const auto& t) {
    return nn::Vector<float>(Eigen::Map<const nn::Vector<float>>(t.data(), t.size()));
  };
  switch (file.entries().at(name).extents.size()) {
    case 1:
      return flattened(file.tensor<float, 1>(name));
    case 2:
      return flattened(file.tensor<float, 2>(name));
    default:
      return flattened(file.tensor<float, 4>(name));
  }
}

/// LeNet with what the file holds. Layer i is PyTorch's "i." there.
nn::Sequential<float> load(batchnorm::SafetensorsReader& file) {
  nn::Random random(0);
  auto model = nn::lenet<float>({}, random);
  for (std::size_t i = 0; i < model.size(); ++i) {
    const std::string prefix = std::to_string(i) + ".";
    if (auto* images = dynamic_cast<nn::BatchNorm2d<float>*>(&model.layer(i))) {
      file.load(images->norm(), prefix);
    } else if (auto* samples = dynamic_cast<nn::BatchNorm1d<float>*>(&model.layer(i))) {
      file.load(samples->norm(), prefix);
    } else if (auto parameters = model.layer(i).parameters(); !parameters.empty()) {
      parameters[0].value = flat(file, prefix + "weight");
      parameters[1].value = flat(file, prefix + "bias");
    }
  }
  model.eval();
  return model;
}

void run(const std::string& path, const std::string& data) {
  batchnorm::SafetensorsReader file(path);
  auto model = load(file);
  const auto of_pytorch = file.tensor<float, 1>("predictions");
  const auto test_set = fashion_mnist::read_dataset(data, "t10k");
  const std::size_t count = std::min(test_set.size(), static_cast<std::size_t>(of_pytorch.size()));
  std::size_t right = 0, right_in_pytorch = 0, same = 0;
  for (std::size_t begin = 0; begin < count; begin += 256) {
    const std::size_t end = std::min(begin + 256, count);
    const auto classes =
        fashion_mnist::classes(model.forward(fashion_mnist::images(test_set, begin, end)));
    for (std::size_t i = begin; i < end; ++i) {
      const auto in_pytorch = static_cast<std::uint8_t>(of_pytorch(static_cast<nn::Index>(i)));
      right += classes[i - begin] == test_set.labels[i];
      right_in_pytorch += in_pytorch == test_set.labels[i];
      same += classes[i - begin] == in_pytorch;
    }
  }
  const double n = static_cast<double>(count);
  std::printf("test accuracy: PyTorch %.4f, here %.4f\n", static_cast<double>(right_in_pytorch) / n,
              static_cast<double>(right) / n);
  std::printf("Verdict: the same class for %zu of %zu images.\n", same, count);
}

}  // namespace

int main(int argc, char** argv) try {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  std::string data = "/usr/share/datasets/fashion-mnist";
  const auto option = std::find(arguments.begin(), arguments.end(), "--data");
  if (option != arguments.end() && option + 1 != arguments.end()) {
    data = option[1];
    arguments.erase(option, option + 2);
  }
  if (arguments.size() != 1 || arguments[0] == "--help") {
    std::cerr << "load_pytorch_weights FILE [--data FOLDER], with the file that\n"
                 "  /usr/bin/python3 examples/load_pytorch_weights/train.py FILE\n"
                 "has written (apt-get install python3-torch dataset-fashion-mnist)\n";
    return EXIT_FAILURE;
  }
  run(arguments[0], data);
  return EXIT_SUCCESS;
} catch (const std::exception& error) {
  std::cerr << error.what() << std::endl;
  return EXIT_FAILURE;
}
