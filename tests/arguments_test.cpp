// SPDX-License-Identifier: MIT
// Every kind of argument: tensors, maps, references, expressions, matrices, views of any stride;
// what is returned, and what is written through views.

#include <batchnorm/batchnorm.hpp>
#include <cstdlib>
#include <type_traits>
#include <unsupported/Eigen/CXX11/Tensor>

#include "support/any_layer.hpp"
#include "support/catch.hpp"
#include "support/compare.hpp"
#include "support/reference.hpp"

using batchnorm::BatchNorm1d;
using batchnorm::BatchNorm2d;
using batchnorm::ChannelAxis;
using batchnorm::Options;
using Eigen::Dynamic;
using Eigen::Index;
using testing::at;

using Matrix = Eigen::MatrixXf;
using Rows = Eigen::Matrix<float, Dynamic, Dynamic, Eigen::RowMajor>;
using Strided = Eigen::Stride<Dynamic, Dynamic>;
using Tensor2 = Eigen::Tensor<float, 2>;
using Tensor2Rows = Eigen::Tensor<float, 2, Eigen::RowMajor>;
using Tensor4 = Eigen::Tensor<float, 4>;
using Tensor4Rows = Eigen::Tensor<float, 4, Eigen::RowMajor>;

namespace {

constexpr Index N = 11, C = 5;

/// One batch of N rows and C columns with all that must come of it, from the reference layer.
struct Expected {
  Matrix x{N, C}, dy{N, C}, y{N, C}, dx{N, C};  // in training
  Matrix z{N, C}, dz{N, C};                     // y and dx in eval mode
  Eigen::VectorXf gamma{C}, beta{C}, grad_gamma{C}, grad_beta{C};

  Expected() {
    testing::Random random(1);
    random.fill(x, 1, 2);
    random.fill(dy);
    random.fill(gamma);
    random.fill(beta);
    testing::ReferenceLayer reference(C, {});
    testing::Values vx(N, C, {}), vdy(N, C, {});
    vx.each([&](Index n, Index c, Index p) {
      vx(n, c, p) = x(n, c);
      vdy(n, c, p) = dy(n, c);
    });
    for (Index c = 0; c < C; ++c) {
      reference.gamma[at(c)] = gamma[c];
      reference.beta[at(c)] = beta[c];
    }
    const auto vy = reference.forward(vx), vdx = reference.backward(vx, vdy);
    for (Index c = 0; c < C; ++c) {
      grad_gamma[c] = static_cast<float>(reference.grad_gamma[at(c)]);
      grad_beta[c] = static_cast<float>(reference.grad_beta[at(c)]);
    }
    reference.running_mean.assign(at(C), 0);
    reference.running_var.assign(at(C), 1);
    reference.training = false;
    const auto vz = reference.forward(vx), vdz = reference.backward(vx, vdy);
    vx.each([&](Index n, Index c, Index p) {
      y(n, c) = static_cast<float>(vy(n, c, p));
      dx(n, c) = static_cast<float>(vdx(n, c, p));
      z(n, c) = static_cast<float>(vz(n, c, p));
      dz(n, c) = static_cast<float>(vdz(n, c, p));
    });
  }

  BatchNorm1d<float> layer() const {
    BatchNorm1d<float> layer(C);
    layer.gamma() = gamma;
    layer.beta() = beta;
    return layer;
  }
  bool are_gradients(const BatchNorm1d<float>& layer) const {
    return layer.grad_gamma().isApprox(grad_gamma, 2e-6f) &&
           layer.grad_beta().isApprox(grad_beta, 2e-6f);
  }
};

const Expected& expected() {
  static const Expected e;
  return e;
}

/// Values of size 5 at most, with some float roundings.
template <class X>
bool near(const X& got, const Matrix& expected) {
  if constexpr (std::is_base_of_v<Eigen::DenseBase<X>, X>) {
    return got.rows() == expected.rows() && got.cols() == expected.cols() &&
           (Matrix(got) - expected).cwiseAbs().maxCoeff() <= 5e-6f;
  } else {
    using Same = Eigen::Matrix<float, Dynamic, Dynamic, static_cast<int>(X::Layout)>;
    return near(Same(Eigen::Map<const Same>(got.data(), got.dimension(0), got.dimension(1))),
                expected);
  }
}

/// x and dy of these kinds give the right results, of type Plain.
template <class Plain, class X, class Dy>
void check_values(const X& x, const Dy& dy) {
  const Expected& e = expected();
  BatchNorm1d<float> layer = e.layer();
  const auto y = layer.forward(x);
  static_assert(std::is_same_v<std::remove_const_t<decltype(y)>, Plain>);
  const auto dx = layer.backward(x, dy);
  static_assert(std::is_same_v<std::remove_const_t<decltype(dx)>, Plain>);
  const auto again = layer.backward(layer.saved(), x, dy);
  static_assert(std::is_same_v<std::remove_const_t<decltype(again)>, Plain>);
  CHECK(near(y, e.y));
  CHECK(near(dx, e.dx));
  CHECK(near(again, e.dx));
  layer.zero_grad();
  static_cast<void>(layer.backward(x, dy));
  CHECK(e.are_gradients(layer));
  layer.reset_running_stats();
  layer.eval();
  CHECK(near(layer.forward(x), e.z));
  CHECK(near(layer.backward(x, dy), e.dz));
}

/// Writes to y through the view that `view` makes, which must leave all else as it is.
template <class X, class Dy, class Memory, class View>
void check_buffers(const X& x, const Dy& dy, Memory memory, const View& view) {
  const Expected& e = expected();
  BatchNorm1d<float> layer = e.layer();
  memory.setConstant(77);
  const auto outside = [&] { return (memory.array() == 77).count(); };
  const Index rest = memory.size() - N * C;
  layer.forward(x, view(memory));
  CHECK(near(view(memory), e.y));
  CHECK(outside() == rest);
  memory.setConstant(77);
  layer.backward(x, dy, view(memory));
  CHECK(near(view(memory), e.dx));
  CHECK(outside() == rest);
  CHECK(e.are_gradients(layer));
  memory.setConstant(77);
  layer.backward(layer.saved(), x, dy, view(memory));
  CHECK(near(view(memory), e.dx));
  view(memory) = e.dy;
  layer.backward(x, view(memory), view(memory));  // dx is dy
  CHECK(near(view(memory), e.dx));
  CHECK(outside() == rest);
  layer.reset_running_stats();
  layer.eval();
  view(memory) = e.x;
  layer.forward(view(memory), view(memory));  // y is x
  CHECK(near(view(memory), e.z));
  CHECK(outside() == rest);
}

template <class Tensor>
Tensor tensor_of(const Matrix& m) {
  Tensor t(m.rows(), m.cols());
  for (Index n = 0; n < m.rows(); ++n) {
    for (Index c = 0; c < m.cols(); ++c) t(n, c) = m(n, c);
  }
  return t;
}

}  // namespace

TEST_CASE("matrices of either order, arrays and maps of them give plain matrices", "[arguments]") {
  Matrix x = expected().x, dy = expected().dy;
  Rows x_rows = x, dy_rows = dy;
  check_values<Matrix>(x, dy);
  check_values<Rows>(x_rows, dy_rows);
  check_values<Matrix>(Eigen::Map<Matrix>(x.data(), N, C), dy);
  check_values<Matrix>(Eigen::Map<const Matrix>(x.data(), N, C), dy);
  check_values<Rows>(x_rows, Eigen::Map<const Rows>(dy_rows.data(), N, C));
  check_values<Eigen::ArrayXXf>(Eigen::ArrayXXf(x), Eigen::ArrayXXf(dy));
  check_values<Eigen::ArrayXXf>(x.array(), dy);
  check_values<Matrix>(Eigen::ArrayXXf(x).matrix(), dy.array());
}

TEST_CASE("references to matrices are read in place", "[arguments]") {
  Matrix x = expected().x, dy = expected().dy;
  const Eigen::Ref<Matrix> ref(x);
  const Eigen::Ref<const Matrix> const_ref(dy);
  check_values<Matrix>(ref, const_ref);
  const Eigen::Ref<const Matrix, 0, Strided> strided(x);
  check_values<Matrix>(strided, dy);
}

TEST_CASE("blocks and maps of any stride are read and written in place", "[arguments]") {
  const Expected& e = expected();
  Matrix large(N + 4, C + 3);
  large.setConstant(77);
  large.block(2, 1, N, C) = e.x;
  check_values<Matrix>(large.block(2, 1, N, C), e.dy);
  check_buffers(large.block(2, 1, N, C), e.dy, Matrix(N + 4, C + 3),
                [](Matrix& m) { return m.block(2, 1, N, C); });
  check_buffers(e.x, e.dy, Matrix(N, C + 3), [](Matrix& m) { return m.rightCols(C); });
  check_buffers(e.x, e.dy, Matrix(N + 1, C), [](Matrix& m) { return m.topRows<N>(); });

  Rows large_rows(N + 4, C + 3);
  large_rows.block(2, 1, N, C) = e.x;
  check_values<Rows>(large_rows.block(2, 1, N, C), Rows(e.dy));
  check_buffers(large_rows.block(2, 1, N, C), Rows(e.dy), Rows(N + 4, C + 3),
                [](Rows& m) { return m.block(2, 1, N, C); });

  // every third value, lines 40 apart
  Eigen::VectorXf memory(1000);
  memory.setConstant(77);
  using Map = Eigen::Map<Matrix, 0, Strided>;
  using MapRows = Eigen::Map<Rows, 0, Strided>;
  Map(memory.data(), N, C, Strided(40, 3)) = e.x;
  check_values<Matrix>(Map(memory.data(), N, C, Strided(40, 3)), e.dy);
  check_buffers(Map(memory.data(), N, C, Strided(40, 3)), e.dy, Eigen::VectorXf(1000),
                [](Eigen::VectorXf& m) { return Map(m.data(), N, C, Strided(40, 3)); });
  MapRows(memory.data(), N, C, Strided(40, 3)) = e.x;
  check_values<Rows>(MapRows(memory.data(), N, C, Strided(40, 3)), Rows(e.dy));
  check_buffers(MapRows(memory.data(), N, C, Strided(40, 3)), Rows(e.dy), Eigen::VectorXf(1000),
                [](Eigen::VectorXf& m) { return MapRows(m.data(), N, C, Strided(40, 3)); });
  // one argument strided, the others not
  check_buffers(Rows(e.x), Rows(e.dy), Eigen::VectorXf(1000),
                [](Eigen::VectorXf& m) { return MapRows(m.data(), N, C, Strided(40, 3)); });
  using InnerMap = Eigen::Map<Matrix, 0, Eigen::InnerStride<2>>;
  check_buffers(e.x, e.dy, Eigen::VectorXf(2 * N * C),
                [](Eigen::VectorXf& m) { return InnerMap(m.data(), N, C); });
}

TEST_CASE("dy alone may lie at any stride", "[arguments]") {
  const Expected& e = expected();
  const auto check = [&](const auto& x, const auto& dy) {
    auto layer = e.layer();
    static_cast<void>(layer.forward(x));
    CHECK(near(layer.backward(x, dy), e.dx));
  };
  Eigen::VectorXf memory(1000);
  memory.setConstant(77);
  Eigen::Map<Matrix, 0, Strided> columns(memory.data(), N, C, Strided(40, 3));
  columns = e.dy;
  check(e.x, columns);
  Eigen::Map<Rows, 0, Strided> rows(memory.data(), N, C, Strided(40, 3));
  rows = e.dy;
  check(Rows(e.x), rows);
  Rows wide(N, C + 3);
  wide.setConstant(77);
  wide.rightCols(C) = e.dy;
  check(Rows(e.x), wide.rightCols(C));
}

TEST_CASE("channels of dy may lie farther apart than those of x", "[arguments]") {
  std::srand(1);
  const Matrix x = Matrix::Random(6, 40), dy = Matrix::Random(6, 40);
  Matrix tall = Matrix::Constant(10, 40, 77);
  tall.topRows(6) = dy;
  BatchNorm1d<float> layer(40);
  static_cast<void>(layer.forward(x));
  CHECK(layer.backward(x, tall.topRows(6)) == layer.backward(x, dy));
}

TEST_CASE("plain matrices, maps, arrays and references are written", "[arguments]") {
  const Expected& e = expected();
  check_buffers(e.x, e.dy, Matrix(N, C), [](Matrix& m) -> Matrix& { return m; });
  check_buffers(Rows(e.x), Rows(e.dy), Rows(N, C), [](Rows& m) -> Rows& { return m; });
  check_buffers(e.x, e.dy, Matrix(N, C), [](Matrix& m) { return Eigen::Ref<Matrix>(m); });
  check_buffers(e.x, e.dy, Matrix(N, C),
                [](Matrix& m) { return Eigen::Map<Matrix>(m.data(), N, C); });
  check_buffers(e.x, e.dy, Matrix(N, C), [](Matrix& m) { return m.array().matrix(); });
}

TEST_CASE("samples in columns are read and written through transpose()", "[arguments]") {
  const Expected& e = expected();
  Matrix x = e.x.transpose(), dy = e.dy.transpose();
  check_values<Rows>(x.transpose(), dy.transpose());
  check_values<Rows>(static_cast<const Matrix&>(x).transpose(), Rows(e.dy));
  check_buffers(x.transpose(), dy.transpose(), Matrix(C, N),
                [](Matrix& m) { return m.transpose(); });
  check_buffers(x.transpose(), dy.transpose(), Matrix(C + 2, N + 3),
                [](Matrix& m) { return m.block(1, 2, C, N).transpose(); });
  Rows x_rows = x, dy_rows = dy;
  check_values<Matrix>(x_rows.transpose(), dy_rows.transpose());
  check_buffers(x_rows.transpose(), e.dy, Rows(C, N), [](Rows& m) { return m.transpose(); });
}

TEST_CASE("columns that interleave with others in one matrix may be x and y", "[arguments]") {
  const Expected& e = expected();
  Rows both(N, 2 * C);
  both.leftCols(C) = e.x;
  both.rightCols(C).setConstant(77);
  auto layer = e.layer();
  layer.forward(both.leftCols(C), both.rightCols(C));
  CHECK(near(both.rightCols(C), e.y));
  CHECK(both.leftCols(C) == e.x);
}

TEST_CASE("one memory as a matrix and as a tensor is one place, of any sizes", "[arguments]") {
  for (const auto& [rows, cols] : {std::pair{4, 3}, {1, 3}, {4, 1}, {1, 1}}) {
    Eigen::MatrixXf memory = Eigen::MatrixXf::Constant(rows, cols, 3);
    Eigen::TensorMap<Eigen::Tensor<float, 2>> tensor(memory.data(), rows, cols);
    Options options;
    options.eps = 0;
    batchnorm::BatchNorm1d<float> layer(cols, options);  // eval mode: y = x + 1
    layer.eval();
    layer.beta().setOnes();
    layer.forward(memory, tensor);
    CHECK(memory == Eigen::MatrixXf::Constant(rows, cols, 4));
    layer.infer(tensor, memory);
    CHECK(memory == Eigen::MatrixXf::Constant(rows, cols, 5));
  }
}

TEST_CASE("a y that has only its first value in common with x is not x itself", "[arguments]") {
  Eigen::Vector4d memory(3, 5, 7, 9);
  const Eigen::Map<Eigen::VectorXd> x(memory.data(), 2);
  Eigen::Map<Eigen::VectorXd, 0, Eigen::InnerStride<>> y(memory.data(), 2, Eigen::InnerStride<>(2));
  Options options;
  options.eps = 0;
  batchnorm::BatchNorm1d<double> layer(1, options);  // eval mode: y = x
  layer.eval();
  layer.gamma() << 2;
  layer.forward(x, y);
  CHECK(memory == Eigen::Vector4d(6, 5, 10, 9));
  const Eigen::VectorXd x_of_before = Eigen::Vector2d(3, 5), dy = Eigen::Vector2d(1, -1);
  CHECK(layer.backward(x_of_before, dy) == Eigen::Vector2d(2, -2));  // backward is not refused
}

TEST_CASE("fixed sizes give fixed sizes", "[arguments]") {
  const Expected& e = expected();
  using Fixed = Eigen::Matrix<float, N, C>;
  using FixedRows = Eigen::Matrix<float, N, C, Eigen::RowMajor>;
  using HalfFixed = Eigen::Matrix<float, Dynamic, C>;
  check_values<Fixed>(Fixed(e.x), e.dy);
  check_values<FixedRows>(FixedRows(e.x), FixedRows(e.dy));
  check_values<HalfFixed>(HalfFixed(e.x), e.dy);
  check_buffers(Fixed(e.x), e.dy, Fixed(), [](Fixed& m) -> Fixed& { return m; });
}

TEST_CASE("expressions of matrices are evaluated, in x's order", "[arguments]") {
  const Expected& e = expected();
  const Matrix half = e.x / 2, half_dy = e.dy / 2;
  const Rows x_rows = e.x, dy_rows = e.dy;
  check_values<Matrix>(2 * half, 2 * half_dy);
  check_values<Matrix>(e.x, half_dy + half_dy);
  check_values<Eigen::ArrayXXf>(2 * half.array(), half_dy.array() * 2);
  check_values<Matrix>(e.x, 2 * Rows(half_dy));  // dy of the other order
  check_values<Rows>(x_rows, 2 * half_dy);
  check_values<Matrix>(e.x, (2 * half_dy.transpose()).transpose());
  const Matrix upside_down = e.x.colwise().reverse();
  check_values<Matrix>(upside_down.colwise().reverse(), e.dy);
  check_values<Matrix>(half * (2 * Matrix::Identity(C, C)), e.dy);
  check_buffers(2 * half, 2 * half_dy, Rows(N, C), [](Rows& m) -> Rows& { return m; });
}

TEST_CASE("every second row is read where a matrix of it is", "[arguments]") {
  const Expected& e = expected();
  Matrix x(2 * N, C), dy(2 * N, C);
  x.setConstant(99), dy.setConstant(99);
  const auto second = Eigen::seqN(0, N, 2);
  const auto all = Eigen::seqN(0, C);
  x(second, all) = e.x, dy(second, all) = e.dy;
  check_values<Matrix>(x(second, all), dy(second, all));
  check_buffers(x(second, all), dy(second, all), Matrix(N, C),
                [](Matrix& m) -> Matrix& { return m; });
}

TEST_CASE("a segment of a vector is a batch of one channel too", "[arguments]") {
  const Eigen::Vector4d x(7, 1, 3, 9);
  BatchNorm1d<double> bn(1);
  const Eigen::VectorXd y = bn.forward(x.segment(1, 2));
  CHECK(y.isApprox(Eigen::Vector2d(-1, 1) / std::sqrt(1 + 1e-5)));
}

TEST_CASE("a vector is a batch of one channel, a row a batch of one sample", "[arguments]") {
  // 1, 2, 3, 6: mean 3, variance (4 + 1 + 0 + 9) / 4 = 3.5
  const double s = 1 / std::sqrt(3.5 + 1e-5);
  const auto right = [&](const auto& y) {
    return std::abs(y[0] + 2 * s) < 1e-6 && std::abs(y[1] + s) < 1e-6 && std::abs(y[2]) < 1e-6 &&
           std::abs(y[3] - 3 * s) < 1e-6;
  };
  BatchNorm1d<float> one(1);
  const Eigen::Vector4f x(1, 2, 3, 6);
  const Eigen::VectorXf dynamic = x;
  const auto y = one.forward(x);
  static_assert(std::is_same_v<decltype(y), const Eigen::Vector4f>);
  CHECK(right(y));
  CHECK(right(one.forward(dynamic)));
  CHECK(right(one.forward(Eigen::ArrayXf(dynamic))));
  Matrix columns(4, 3);
  columns << 0, 1, 0, 0, 2, 0, 0, 3, 0, 0, 6, 0;
  CHECK(right(one.forward(columns.col(1))));
  Rows rows = columns;
  CHECK(right(one.forward(rows.col(1))));  // of stride 3
  one.forward(rows.col(1), rows.col(2));
  CHECK(right(rows.col(2)));
  one.forward(dynamic, rows.col(0));  // vectors fit either order
  CHECK(right(rows.col(0)));
  static_cast<void>(one.backward(dynamic, rows.col(0)));

  BatchNorm1d<float> four(4);
  four.running_mean() << 1, 1, 1, 2;
  four.running_var().setConstant(4 - 1e-5f);
  four.eval();
  const Eigen::RowVector4f halves(0, 0.5f, 1, 2);
  const auto row = four.forward(x.transpose());
  CHECK((row - halves).cwiseAbs().maxCoeff() < 1e-6f);
  Matrix wide(3, 4);
  wide.setZero();
  wide.row(1) = x.transpose();
  const auto from_row = four.forward(wide.row(1));  // of stride 3
  static_assert(from_row.RowsAtCompileTime == 1);
  CHECK((from_row - halves).cwiseAbs().maxCoeff() < 1e-6f);
  four.forward(wide.row(1), wide.row(2));
  CHECK((wide.row(2) - halves).cwiseAbs().maxCoeff() < 1e-6f);
  CHECK(wide.row(0).isZero());
}

TEST_CASE("references to tensors are written", "[arguments]") {
  const Expected& e = expected();
  BatchNorm1d<float> layer = e.layer();
  auto x = tensor_of<Tensor2>(e.x), dy = tensor_of<Tensor2>(e.dy);
  Tensor2 y(N, C), dx(N, C);
  Eigen::TensorRef<Tensor2> y_ref(y), dx_ref(dx);
  layer.forward(x, y_ref);
  CHECK(near(y, e.y));
  layer.backward(x, dy, dx_ref);
  CHECK(near(dx, e.dx));
  CHECK(e.are_gradients(layer));
}

TEST_CASE("tensors, maps and references of rank 2 give plain tensors", "[arguments]") {
  const Expected& e = expected();
  auto x = tensor_of<Tensor2>(e.x), dy = tensor_of<Tensor2>(e.dy);
  auto x_rows = tensor_of<Tensor2Rows>(e.x), dy_rows = tensor_of<Tensor2Rows>(e.dy);
  check_values<Tensor2>(x, dy);
  check_values<Tensor2Rows>(x_rows, dy_rows);
  check_values<Tensor2>(Eigen::TensorMap<Tensor2>(x.data(), N, C), dy);
  check_values<Tensor2>(Eigen::TensorMap<const Tensor2>(x.data(), N, C), dy);
  check_values<Tensor2Rows>(x_rows, Eigen::TensorMap<const Tensor2Rows>(dy_rows.data(), N, C));
  check_values<Tensor2>(Eigen::TensorMap<Eigen::Tensor<const float, 2>>(x.data(), N, C), dy);
  check_values<Tensor2>(Eigen::TensorRef<Tensor2>(x), dy);
  const auto half_dy = tensor_of<Tensor2>(e.dy / 2);
  using ReadOnly = std::conditional_t<(EIGEN_MAJOR_VERSION >= 5), const Tensor2, Tensor2>;
  const Eigen::TensorRef<ReadOnly> sum = half_dy + half_dy;
  check_values<Tensor2>(x, sum);
  using IntTensor = Eigen::Tensor<float, 2, Eigen::ColMajor, int>;
  IntTensor x_int(static_cast<int>(N), static_cast<int>(C));
  std::copy(x.data(), x.data() + N * C, x_int.data());
  check_values<IntTensor>(x_int, dy);
  check_values<Tensor2>(x, e.dy);  // a matrix beside a tensor
}

TEST_CASE("expressions of tensors are evaluated, in x's order", "[arguments]") {
  const Expected& e = expected();
  const auto x = tensor_of<Tensor2>(e.x), dy = tensor_of<Tensor2>(e.dy);
  const auto x_rows = tensor_of<Tensor2Rows>(e.x), dy_rows = tensor_of<Tensor2Rows>(e.dy);
  check_values<Tensor2>(x * 1.f, dy + dy.constant(0));
  check_values<Tensor2>(x, dy_rows * 1.f);  // dy of the other order
  check_values<Tensor2Rows>(x_rows, dy * 1.f);
  const auto turned = tensor_of<Tensor2>(e.x.transpose());
  check_values<Tensor2>(turned.shuffle(std::array<Index, 2>{1, 0}), dy);
  Tensor2 y(N, C);
  auto layer = e.layer();
  layer.forward(x * 1.f, y);
  CHECK(near(y, e.y));
  Eigen::TensorMap<Tensor2> map(y.data(), N, C);
  layer.backward(x * 1.f, dy_rows * 1.f, map);
  CHECK(near(y, e.dx));
  CHECK(e.are_gradients(layer));
  Tensor2Rows z(N, C);
  layer.forward(x * 1.f, z);  // x an expression of the other order than y
  CHECK(near(z, e.y));
}

TEST_CASE("tensors are written in place, and over x and dy", "[arguments]") {
  const Expected& e = expected();
  auto x = tensor_of<Tensor2Rows>(e.x), dy = tensor_of<Tensor2Rows>(e.dy);
  Tensor2Rows y(N, C), dx(N, C);
  auto layer = e.layer();
  layer.forward(x, y);
  CHECK(near(y, e.y));
  layer.forward(x, Eigen::TensorMap<Tensor2Rows>(y.data(), N, C));
  layer.backward(x, dy, dx);
  CHECK(near(dx, e.dx));
  layer.backward(layer.saved(), x, dy, dy);
  CHECK(near(dy, e.dx));
  layer.reset_running_stats();
  layer.eval();
  layer.forward(x, x);
  CHECK(near(x, e.z));
}

TEST_CASE("a fixed-size tensor gives a fixed-size tensor", "[arguments]") {
  using Fixed = Eigen::TensorFixedSize<float, Eigen::Sizes<N, C>>;
  const Expected& e = expected();
  Fixed x, dy, y;
  std::copy(e.x.data(), e.x.data() + N * C, x.data());
  std::copy(e.dy.data(), e.dy.data() + N * C, dy.data());
  auto layer = e.layer();
  const auto value = layer.forward(x);
  static_assert(std::is_same_v<decltype(value), const Fixed>);
  CHECK(near(Eigen::Map<const Matrix>(value.data(), N, C), e.y));
  layer.forward(x, y);
  CHECK(near(Eigen::Map<const Matrix>(y.data(), N, C), e.y));
  const auto dx = layer.backward(x, dy);
  CHECK(near(Eigen::Map<const Matrix>(dx.data(), N, C), e.dx));
  const auto map = layer.forward(Eigen::TensorMap<Fixed>(x.data(), N, C));
  static_assert(std::is_same_v<decltype(map), const Fixed>);
}

TEST_CASE("a permuted image is the image with the channel elsewhere", "[arguments]") {
  Options last;
  last.channel_axis = ChannelAxis::last;
  BatchNorm2d<float> by_plane(3), by_pixel(3, last);
  Tensor4Rows x(4, 3, 5, 7), dy(4, 3, 5, 7);
  testing::Random random(2);
  random.fill(x);
  random.fill(dy);
  const std::array<Index, 4> to_last = {0, 2, 3, 1}, to_first = {0, 3, 1, 2};
  const Tensor4Rows y = by_plane.forward(x), dx = by_plane.backward(x, dy);
  const Tensor4Rows y_last = by_pixel.forward(x.shuffle(to_last));
  const Tensor4Rows dx_last = by_pixel.backward(x.shuffle(to_last), dy.shuffle(to_last));
  const Tensor4Rows back = y_last.shuffle(to_first), dx_back = dx_last.shuffle(to_first);
  REQUIRE(back.dimensions() == y.dimensions());
  double worst = 0;
  for (Index i = 0; i < y.size(); ++i) {
    worst = std::max(worst, static_cast<double>(std::abs(back.data()[i] - y.data()[i])));
    worst = std::max(worst, static_cast<double>(std::abs(dx_back.data()[i] - dx.data()[i])));
  }
  CHECK(worst <= 5e-6);
}

TEST_CASE("an image gradient of the other storage order is evaluated into x's", "[arguments]") {
  BatchNorm2d<float> layer(3), same(3);
  Tensor4Rows x(4, 3, 5, 7), dy(4, 3, 5, 7);
  testing::Random random(3);
  random.fill(x);
  random.fill(dy);
  Tensor4 dy_columns(4, 3, 5, 7);
  for (Index n = 0; n < 4; ++n) {
    for (Index c = 0; c < 3; ++c) {
      for (Index h = 0; h < 5; ++h) {
        for (Index w = 0; w < 7; ++w) dy_columns(n, c, h, w) = dy(n, c, h, w);
      }
    }
  }
  static_cast<void>(layer.forward(x));
  static_cast<void>(same.forward(x));
  const auto dx = layer.backward(x, dy_columns * 1.f);
  static_assert(std::is_same_v<decltype(dx), const Tensor4Rows>);
  const auto expected_dx = same.backward(x, dy);
  for (Index i = 0; i < dx.size(); ++i) CHECK(dx.data()[i] == expected_dx.data()[i]);
  CHECK(layer.grad_gamma() == same.grad_gamma());
  CHECK(layer.grad_beta() == same.grad_beta());
}

TEST_CASE("a folded layer computes what eval mode does", "[arguments]") {
  const Expected& e = expected();
  auto layer = e.layer();
  static_cast<void>(layer.forward(e.x));
  layer.eval();
  const Matrix z = layer.forward(e.x);
  const auto folded = static_cast<const BatchNorm1d<float>&>(layer).folded();
  static_assert(
      std::is_same_v<std::remove_const_t<decltype(folded)>, batchnorm::ChannelAffine<float>>);
  static_assert(std::is_same_v<decltype(BatchNorm1d<Eigen::half>(1).folded()),
                               batchnorm::ChannelAffine<float>>);
  CHECK(folded.center == layer.running_mean());
  CHECK(folded.shift == layer.beta());
  Matrix by_hand(N, C);
  for (Index c = 0; c < C; ++c) {
    const double scale =
        layer.gamma()[c] / std::sqrt(static_cast<double>(layer.running_var()[c]) + 1e-5);
    CHECK(folded.scale[c] == Approx(scale).epsilon(1e-7));
    by_hand.col(c) =
        (folded.scale[c] * (e.x.col(c).array() - folded.center[c]) + folded.shift[c]).matrix();
  }
  CHECK(near(by_hand, z));
  Options bare;
  bare.scale = bare.shift = false;
  const auto plain = BatchNorm1d<double>(2, bare).folded();
  CHECK(plain.scale.isApprox(Eigen::Vector2d::Constant(1 / std::sqrt(1 + 1e-5)), 1e-15));
  CHECK(plain.center == Eigen::Vector2d::Zero());
  CHECK(plain.shift == Eigen::Vector2d::Zero());
}
