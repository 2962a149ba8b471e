// SPDX-License-Identifier: MIT
// Mistakes that must not compile. The tests compile this file once for each mistake with its name
// defined, and once with none, which must succeed. The first error of a mistake holds the words
// after "says". The words after "shows" are in the code that compilers show below the error.

#include <batchnorm/batchnorm.hpp>
#include <batchnorm/extras/fixed.hpp>
#include <batchnorm/extras/in_place.hpp>
#include <unsupported/Eigen/CXX11/Tensor>

using Batch = Eigen::Tensor<float, 4, Eigen::RowMajor>;

void mistakes([[maybe_unused]] const Batch& x, [[maybe_unused]] const Batch& dy) {
  batchnorm::Options options;
  batchnorm::BatchNorm2d<float> layer(64, options);
  [[maybe_unused]] batchnorm::FixedBatchNorm1d<float, 3> fixed;

#if defined(WRONG_RANK)  // says: BatchNorm2d takes
  const Eigen::Tensor<float, 3, Eigen::RowMajor> sequences(8, 64, 100);
  (void)layer.forward(sequences);
#elif defined(MATRIX_FOR_2D)           // says: BatchNorm2d takes
  const Eigen::MatrixXf matrix(8, 64);
  (void)layer.forward(matrix);
#elif defined(WRONG_SCALAR)            // says: the layer's Scalar, float: x.cast<float>()
  const Eigen::Tensor<double, 4, Eigen::RowMajor> doubles(8, 64, 7, 7);
  const Batch y = layer.forward(doubles);
#elif defined(WRONG_SCALAR_OF_HALVES)  // says: the layer's Scalar, half: x.cast<Eigen::half>()
  batchnorm::BatchNorm2d<Eigen::half> halves(64);
  (void)halves.forward(x);
#elif defined(WRONG_SCALAR_OF_DY)      // says: must have the layer's Scalar, float: x.cast<float>()
  const Eigen::Tensor<double, 4, Eigen::RowMajor> doubles(8, 64, 7, 7);
  (void)layer.backward(x, doubles);
#elif defined(LAYER_OF_INTEGERS)       // says: float, double, Eigen::half
  const batchnorm::BatchNorm2d<int> integers(64);
#elif defined(DOUBLE_MATRIX)           // says: the layer's Scalar, float: x.cast<float>()
  const Eigen::MatrixXf y = batchnorm::BatchNorm1d<float>(3).infer(Eigen::MatrixXd(8, 3));
#elif defined(WITHOUT_SCALAR)          // says: alias template
  const batchnorm::BatchNorm2d without_scalar(64);
#elif defined(RESULT_TO_OTHER_ORDER)   // says: YOU_MADE_A_PROGRAMMING_MISTAKE
  const Eigen::Tensor<float, 4> column_major = layer.forward(x);
#elif defined(BACKWARD_WITHOUT_X)      // says: backward needs x: backward(x, dy)
  const auto dx = layer.backward(dy);
#elif defined(POSITIONAL_OPTIONS)      // shows: say which: Options o; o.eps
  const batchnorm::BatchNorm2d<float> positional(64, 1e-5, 0.1);
#elif defined(BARE_MOMENTUM)           // shows: weight_of_new or weight_of_old
  options.momentum = 0.1;
#elif defined(DEVICE_WITHOUT_THREADS)  // says: EIGEN_USE_THREADS
  const Eigen::ThreadPoolDevice* device = nullptr;
  layer.set_device(device);
#elif defined(DEFAULT_DEVICE)          // says: set_device takes an Eigen::ThreadPoolDevice
  const Eigen::DefaultDevice device;
  layer.set_device(&device);
#elif defined(FORWARD_OF_CONST)        // says: a const layer has infer(x)
  const batchnorm::BatchNorm2d<float>& shared = layer;
  const auto y = shared.forward(x);
#elif defined(BACKWARD_OF_CONST)       // says: adds to the gradients of a layer that is not const
  const batchnorm::BatchNorm2d<float>& shared = layer;
  const auto dx = shared.backward(x, dy);
#elif defined(BACKWARD_WITH_Y)         // says: backward takes x and dy, or x, dy and dx
  Batch dx(8, 64, 7, 7);
  layer.backward(x, x, dy, dx);
#elif defined(RESULT_INTO_CONST)       // says: y and dx must be writable
  layer.forward(x, dy);
#elif defined(RESULT_INTO_EXPRESSION)  // says: y and dx must be writable
  layer.forward(x, dy * 2.f);
#elif defined(MIXED_STORAGE_ORDERS)    // says: storage order
  const Eigen::Tensor<float, 4, Eigen::ColMajor> column_major(8, 64, 7, 7);
  (void)layer.backward(x, column_major);
#elif defined(RESULT_OF_OTHER_ORDER)   // says: storage order
  Eigen::Tensor<float, 4, Eigen::ColMajor> column_major(8, 64, 7, 7);
  layer.forward(x, column_major);
#elif defined(DOUBLES_ON_FLOATS)       // says: apply affine.cast<float>()
  (void)batchnorm::BatchNorm2d<double>(64).folded().apply(x);
#elif defined(NOT_A_BATCH)             // says: Eigen tensors
  (void)layer.forward(1.0f);
#elif defined(IN_PLACE_WITH_RELU)      // says: the activation must have an inverse
  batchnorm::InPlace in_place(layer, batchnorm::Relu());
#elif defined(FIXED_OF_INTEGERS)       // says: float, double, Eigen::half
  const batchnorm::FixedBatchNorm1d<int, 3> integers;
#elif defined(FIXED_WITHOUT_CHANNELS)  // says: expected at least 1 channel
  const batchnorm::FixedBatchNorm1d<float, 0> none;
#elif defined(FIXED_WRONG_SCALAR)      // shows: must have the layer's Scalar
  (void)fixed.forward(Eigen::Matrix<double, 8, 3>());
#elif defined(FIXED_WRONG_COLUMNS)     // says: expected matrices of C columns
  (void)fixed.forward(Eigen::Matrix<float, 8, 4>());
#elif defined(FIXED_ON_THE_HEAP)       // says: would use the heap: give y or dx
  (void)fixed.forward(Eigen::Matrix<float, Eigen::Dynamic, 3>());
#else
  options.momentum = batchnorm::Momentum::weight_of_new(0.1);
  (void)layer.forward(x);
  (void)layer.backward(x, dy);
  layer.set_device(nullptr);
  (void)layer.folded().apply(x);
  batchnorm::InPlace in_place(layer, batchnorm::Identity());
  (void)fixed.forward(Eigen::Matrix<float, 8, 3>());
#endif
}
