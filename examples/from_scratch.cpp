// SPDX-License-Identifier: MIT
// Writes batch normalization from scratch, in under 30 lines of plain Eigen, and compares the layer.
#include <batchnorm/batchnorm.hpp>
#include <cstdio>
#include <random>
#include <unsupported/Eigen/CXX11/Tensor>

using Eigen::Index, Eigen::MatrixXd, Eigen::RowVectorXd;
using Images = Eigen::Tensor<double, 4, Eigen::RowMajor>;  // (N, C, H, W)
enum class Mode { training, prediction };
const char* name_of(Mode mode) { return mode == Mode::training ? "training" : "prediction"; }

/// x: (N, C), a column per channel.
MatrixXd batch_norm(const MatrixXd& x, const RowVectorXd& gamma, const RowVectorXd& beta,
                    RowVectorXd& moving_mean, RowVectorXd& moving_var, double eps, double momentum,
                    Mode mode) {
  RowVectorXd mu = moving_mean, var = moving_var;
  if (mode == Mode::training) {
    mu = x.colwise().mean();
    var = (x.rowwise() - mu).array().square().colwise().mean();
    moving_mean = momentum * moving_mean + (1 - momentum) * mu;
    moving_var = momentum * moving_var + (1 - momentum) * var;
  }
  // y = gamma * (x - mu) / sqrt(var + eps) + beta
  const RowVectorXd scale = gamma.array() / (var.array() + eps).sqrt();
  return ((x.rowwise() - mu) * scale.asDiagonal()).rowwise() + beta;
}

/// x: (N, C, H, W). A channel's values are those of all pixels of all images: with the channel
/// moved to the end, a row per pixel, it is the function above.
Images batch_norm(const Images& x, const RowVectorXd& gamma, const RowVectorXd& beta,
                  RowVectorXd& moving_mean, RowVectorXd& moving_var, double eps, double momentum,
                  Mode mode) {
  using Pixels = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  Images last = x.shuffle(Eigen::array<int, 4>{0, 2, 3, 1});  // (N, H, W, C)
  Eigen::Map<Pixels> rows(last.data(), x.size() / x.dimension(1), x.dimension(1));
  rows = batch_norm(MatrixXd(rows), gamma, beta, moving_mean, moving_var, eps, momentum, mode);
  return last.shuffle(Eigen::array<int, 4>{0, 3, 1, 2});
}

/// Fills x with numbers in [0, 10), the same on every machine.
template <class Dense>
void fill(Dense& x, unsigned seed) {
  std::mt19937_64 engine(seed);
  for (Index i = 0; i < x.size(); ++i)
    x.data()[i] = static_cast<double>(engine() >> 11) * 0x1p-53 * 10;
}

template <class Dense>
bool are_close(const Dense& a, const Dense& b) {
  const Eigen::Map<const Eigen::ArrayXd> left(a.data(), a.size()), right(b.data(), b.size());
  return ((left - right).abs() < 1e-12).all();
}

/// Three training batches, then prediction, by both; prints the first channel's numbers beside each
/// other and returns whether all numbers agree.
template <class Layer, class Dense>
bool compare(const char* shape, Dense x, Index channels) {
  Layer layer(channels, batchnorm::Options::onnx());  // 0.9 for the old, population variance
  layer.gamma().setLinSpaced(0.5, 2);
  layer.beta().setLinSpaced(-1, 1);
  const RowVectorXd gamma = layer.gamma(), beta = layer.beta();
  RowVectorXd mean = RowVectorXd::Zero(channels), var = RowVectorXd::Ones(channels);
  bool agree = true;
  for (unsigned batch = 1; batch <= 4; ++batch) {
    const Mode mode = batch < 4 ? Mode::training : Mode::prediction;
    layer.train(mode == Mode::training);
    fill(x, batch);
    const Dense of_layer = layer.forward(x);
    const Dense y = batch_norm(x, gamma, beta, mean, var, 1e-5, 0.9, mode);
    const RowVectorXd layer_mean = layer.running_mean(), layer_var = layer.running_var();
    std::printf("%-13s %-11s %7.4f %7.4f   %7.4f %7.4f   %7.4f %7.4f\n", shape, name_of(mode),
                y.data()[0], of_layer.data()[0], mean(0), layer_mean(0), var(0), layer_var(0));
    agree =
        agree && are_close(y, of_layer) && are_close(mean, layer_mean) && are_close(var, layer_var);
  }
  return agree;
}

int main() {
  // By hand: mean 3, variance (4 + 1 + 0 + 9) / 4 = 3.5, 1 / sqrt(3.5) = 0.5345.
  const MatrixXd x = Eigen::Vector4d(1, 2, 3, 6);
  RowVectorXd one = RowVectorXd::Ones(1), zero = RowVectorXd::Zero(1), mean = zero, var = one;
  std::printf("x = 1, 2, 3, 6 by the function     y          moving mean, variance\n");
  for (Mode mode : {Mode::training, Mode::prediction}) {
    const MatrixXd y = batch_norm(x, one, zero, mean, var, 1e-5, 0.9, mode);
    std::printf("%-13s %7.4f %7.4f %7.4f %7.4f     %.2f  %.2f\n", name_of(mode), y(0), y(1), y(2),
                y(3), mean(0), var(0));
  }
  std::printf("\nfirst channel, by the function and by the layer of the library\n");
  std::printf("                        first y           moving mean       moving variance\n");
  std::printf("shape         mode       function  layer   function  layer   function  layer\n");
  const bool matrix = compare<batchnorm::BatchNorm1d<double>>("(64, 5)", MatrixXd(64, 5), 5);
  const bool images =
      compare<batchnorm::BatchNorm2d<double>>("(8, 3, 7, 6)", Images(8, 3, 7, 6), 3);
  std::printf("\nVerdict: all numbers of the function and of the layer %s within 1e-12.\n",
              matrix && images ? "agree" : "do NOT agree");
}
