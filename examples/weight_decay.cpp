// SPDX-License-Identifier: MIT
// Trains with weight decay, from scratch and by the optimizer, and with L1; draws the loss curves.
#include <Eigen/Core>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>
using Eigen::MatrixXd, Eigen::VectorXd;

/// Normal numbers, the same on every machine, by Box and Muller's formula.
MatrixXd normal(int rows, int cols, std::mt19937_64& engine) {
  const auto uniform = [&] { return static_cast<double>(engine() >> 11) * 0x1p-53; };  // in [0, 1)
  return MatrixXd::NullaryExpr(rows, cols, [&] {
    const double radius = std::sqrt(-2 * std::log(1 - uniform()));
    return radius * std::cos(6.283185307179586 * uniform());
  });
}

struct Data {  // y = 0.05 + sum 0.01 x_i + N(0, 0.01^2)
  MatrixXd x;
  VectorXd y;
  Data(int n, std::mt19937_64& engine) : x(normal(n, 200, engine)) {
    y = 0.05 + 0.01 * x.rowwise().sum().array() + 0.01 * normal(n, 1, engine).array();
  }
};
enum class Decay { penalty, step, threshold };
struct Way {
  const char* name;
  Decay decay;
  double factor, lambda;  // factor of the squared error: 1 / 2, or 1 for the mean squared error
};
struct Result {
  VectorXd w;
  std::vector<double> train, test;  // losses after every fifth epoch
};

Result train(const Way& way, unsigned seed) {
  const double rate = 0.003;
  std::mt19937_64 engine(seed);
  const Data seen(20, engine), unseen(100, engine);
  VectorXd w = normal(200, 1, engine);
  double b = way.factor == 0.5 ? 0 : normal(1, 1, engine)(0);
  const auto loss = [&](const Data& data) {
    return way.factor * ((data.x * w - data.y).array() + b).square().mean();
  };
  Result result;
  for (int step = 0; step < 400; ++step) {  // 100 epochs of 4 batches of 5
    const int batch = step % 4 * 5;
    const MatrixXd x = seen.x.middleRows(batch, 5);
    const VectorXd p = (x * w).array() + b;
    const VectorXd dp = way.factor * 2 / 5 * (p - seen.y.segment(batch, 5));
    VectorXd dw = x.transpose() * dp;
    if (way.decay == Decay::penalty) dw += way.lambda * w;     // lambda / 2 * |w|^2 in the loss
    if (way.decay == Decay::step) w *= 1 - rate * way.lambda;  // before the gradient's step
    w -= rate * dw;
    b -= rate * dp.sum();
    if (way.decay == Decay::threshold) {  // lambda * |w|_1 in the loss, by its proximal step
      w = w.array().sign() * (w.array().abs() - rate * way.lambda).max(0);
    }
    if (step % 20 != 19) continue;
    result.train.push_back(loss(seen));
    result.test.push_back(loss(unseen));
  }
  result.w = w;
  return result;
}

/// Loss curves on a logarithmic scale below a legend. The picture is narrow, for small screens.
void draw(const std::string& file, const Result& without, const Result& with) {
  std::ofstream svg(file);
  svg << std::fixed;
  svg.precision(1);
  const auto x = [](double epoch) { return 64 + 3.84 * epoch; };
  const auto y = [](double loss) { return 286 - 36 * std::log10(loss); };
  svg << R"(<svg xmlns='http://www.w3.org/2000/svg' width='480' height='538' viewBox='0 0 480 538'>
<style>text { font: 15px "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; fill: #444c58; }
.title { font-size: 20px; font-weight: bold; }
.grid { stroke: #e0ddd5; } .curve { fill: none; stroke-width: 2.5; }</style>
<rect width='480' height='538' rx='12' fill='#fcfbf8'/>
<text x='24' y='40' class='title'>Weight decay against overfitting</text>
<text x='24' y='68'>Squared error / 2 of 20 training and 100 test</text>
<text x='24' y='88'>samples in 200 dimensions; one run (seed 0)</text>
<text x='256' y='522' text-anchor='middle'>epoch</text>)";
  for (int power = -5; power <= 3; ++power) {
    const double at = y(std::pow(10, power));
    svg << "\n<line class='grid' x1='64' x2='448' y1='" << at << "' y2='" << at
        << "'/><text x='54' y='" << at + 5 << "' text-anchor='end'>10<tspan dy='-6' font-size='12'>"
        << power << "</tspan></text>";
  }
  for (int epoch = 0; epoch <= 100; epoch += 20)
    svg << "\n<text x='" << x(epoch) << "' y='492' text-anchor='middle'>" << epoch << "</text>";
  const auto curve = [&](const char* name, const char* style, Eigen::Vector2d legend,
                         const std::vector<double>& losses) {
    svg << "\n<g class='curve' " << style << "><polyline points='";
    for (std::size_t i = 0; i < losses.size(); ++i) {
      svg << x(5.0 * static_cast<double>(i + 1)) << ',' << y(losses[i]) << ' ';
    }
    svg << "'/><path d='M" << legend(0) << ' ' << legend(1) << "h32'/></g><text x='"
        << legend(0) + 40 << "' y='" << legend(1) + 5 << "'>" << name << "</text>";
  };
  curve("test, no decay", "stroke='#c94a1d'", {24, 118}, without.test);
  curve("test, decay 3", "stroke='#0b7a72'", {240, 118}, with.test);
  curve("training, no decay", "stroke='#c94a1d' stroke-dasharray='7 5'", {24, 142}, without.train);
  curve("training, decay 3", "stroke='#0b7a72' stroke-dasharray='7 5'", {240, 142}, with.train);
  svg << "\n</svg>\n";
  std::printf("%s %s\n", svg.flush() ? "wrote" : "could NOT write", file.c_str());
}

int main(int argc, char** argv) {
  const Way ways[] = {{"L2 penalty, squared / 2", Decay::penalty, 0.5, 0},
                      {"L2 penalty, squared / 2", Decay::penalty, 0.5, 3},
                      {"L2 step, squared", Decay::step, 1, 0},
                      {"L2 step, squared", Decay::step, 1, 3},
                      {"L2 step, squared / 2", Decay::step, 0.5, 3},
                      {"L1 threshold, squared / 2", Decay::threshold, 0.5, 1}};
  std::vector<Result> r;  // of seed 0
  std::printf(
      "penalty: lambda / 2 * |w|^2 in the loss; step: w *= 1 - rate * lambda;\n"
      "threshold: lambda * |w|_1 in the loss. Lowest and highest numbers of 5 seeds:\n\n"
      "decay, error in the loss  lambda  norm of w       test loss        zeros of 200 weights\n");
  for (const Way& way : ways) {
    VectorXd norm(5), test(5), zeros(5);
    for (int seed = 0; seed < 5; ++seed) {
      const Result result = train(way, static_cast<unsigned>(seed));
      norm(seed) = result.w.norm();
      test(seed) = result.test.back();
      zeros(seed) = static_cast<double>((result.w.array() == 0).count());
      if (seed == 0) r.push_back(result);
    }
    char counts[40] = "none";
    const double low = zeros.minCoeff(), high = zeros.maxCoeff();
    if (high > 0) std::snprintf(counts, sizeof counts, "%.0f to %.0f", low, high);
    std::printf("%-26s %-5g  %5.2f to %-5.2f  %6.2f to %-6.2f   %s\n", way.name, way.lambda,
                norm.minCoeff(), norm.maxCoeff(), test.minCoeff(), test.maxCoeff(), counts);
  }
  const double apart = (r[1].w - r[4].w).cwiseAbs().maxCoeff();
  std::printf("\npenalty and step, squared / 2: the weights differ by at most %.0e\n", apart);
  draw(std::filesystem::absolute(argc > 1 ? argv[1] : "weight_decay.svg").string(), r[0], r[1]);
  const auto zeros_of = [](const Result& result) { return (result.w.array() == 0).count(); };
  std::printf(
      "\nVerdict: decay %s the test loss, from %.0f to %.2f; penalty and step are %s for SGD; "
      "L1 makes %d of 200 weights 0, L2 makes %d.\n",
      r[1].test.back() < r[0].test.back() ? "lowers" : "does NOT lower", r[0].test.back(),
      r[1].test.back(), apart < 1e-12 ? "the same" : "NOT the same",
      static_cast<int>(zeros_of(r[5])), static_cast<int>(zeros_of(r[1])));
}
