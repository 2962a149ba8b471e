// SPDX-License-Identifier: MIT
// Runs a small network by the weights of a safetensors file, as a Python program writes it.
// Debian packages: nlohmann-json3-dev
//
//   net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 1))
//   ...                                                    # PyTorch trains it
//   safetensors.torch.save_file(net.state_dict(), "net.safetensors")
//
// Give the program that file. Without one, it writes a file with such names itself, and removes it.
#include <batchnorm/batchnorm.hpp>
#include <batchnorm/safetensors.hpp>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <system_error>

using Eigen::MatrixXf, Eigen::RowVectorXf, Eigen::Vector3f;

std::filesystem::path written_file() {
  const auto path = std::filesystem::temp_directory_path() / "batchnorm_net.safetensors";
  MatrixXf first(3, 2), last(1, 3);  // PyTorch's linear layers: (outputs, inputs)
  first << 1, 2, -1, 1, 3, -1;
  last << 1, -1, 2;
  batchnorm::SafetensorsWriter()
      .add("0.weight", first)
      .add("0.bias", Vector3f(0, 1, -2))
      .add("1.weight", Vector3f(1, 2, 0.5f))
      .add("1.bias", Vector3f(0, 1, 0.5f))
      .add("1.running_mean", Vector3f(1, 0, 2))
      .add("1.running_var", Vector3f(4, 1, 0.25f))
      .add("3.weight", last)
      .add("3.bias", Eigen::VectorXf(Eigen::VectorXf::Constant(1, 0.25f)))
      .write(path);
  return path;
}

int main(int argc, char** argv) try {
  const std::filesystem::path path = argc > 1 ? argv[1] : written_file();
  batchnorm::SafetensorsReader file(path);
  const MatrixXf first = file.matrix<float>("0.weight"), last = file.matrix<float>("3.weight");
  const RowVectorXf first_bias = file.vector<float>("0.bias"),
                    last_bias = file.vector<float>("3.bias");
  const auto bn = file.layer<batchnorm::BatchNorm1d<float>>("1.", batchnorm::Options::pytorch());
  std::error_code ignored;
  if (argc == 1) std::filesystem::remove(path, ignored);

  MatrixXf x(3, 2);  // three samples
  x << 1, 2, 0, -1, 2, 0;
  const MatrixXf h = (x * first.transpose()).rowwise() + first_bias;
  const MatrixXf a = bn.infer(h).cwiseMax(0.f);  // ReLU
  const MatrixXf y = (a * last.transpose()).rowwise() + last_bias;
  for (Eigen::Index n = 0; n < x.rows(); ++n)
    std::printf("x = (%g, %g)   y = %.3f\n", x(n, 0), x(n, 1), y(n, 0));
} catch (const std::exception& error) {  // a message says which entry is missing, and what to do
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
