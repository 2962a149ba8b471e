// SPDX-License-Identifier: MIT
// Built with -fno-exceptions -fno-rtti: an error's message goes to the handler, and abort follows.

#include <batchnorm/batchnorm.hpp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <unsupported/Eigen/CXX11/Tensor>

namespace {

const char* const expected = "[BatchNorm2d::forward] expected 4 channels, got 3 in (2, 3, 5, 5)";
const char* got = "";

void on_error(const char* message) { got = message; }

// The program succeeds only from here: after abort and, where a handler was set, with its message.
void on_abort_with_handler(int) { std::_Exit(std::strcmp(got, expected) == 0 ? 0 : 1); }
void on_abort(int) {
  std::fputs("aborted\n", stderr);
  std::_Exit(0);
}

}  // namespace

int main(int, char** arguments) {
  std::signal(SIGABRT, on_abort);
  if (std::strcmp(arguments[1], "handler") == 0) {
    batchnorm::set_error_handler(on_error);
    std::signal(SIGABRT, on_abort_with_handler);
  }
  batchnorm::BatchNorm2d<float> layer(4);
  Eigen::Tensor<float, 4, Eigen::RowMajor> right(2, 4, 5, 5), wrong(2, 3, 5, 5);
  right.setZero();
  wrong.setZero();
  right = layer.forward(right);
  (void)layer.backward(right, right);
  (void)layer.forward(wrong);
  return 2;  // not reached: forward never returns from an error
}
