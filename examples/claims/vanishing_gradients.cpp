// SPDX-License-Identifier: MIT
// Sigmoid networks of 10 and 30 layers, looked into, and networks of 100 layers.
#include <cmath>
#include <utility>

#include "claims.hpp"
#include "curves.hpp"

namespace claims {
namespace {

constexpr int kSteps = 120;

/// Seed by seed the outcome of the rate that ended at the lowest loss.
std::vector<Outcome> best_rate(const Outcomes& rates) {
  std::vector<Outcome> best = rates.front();
  for (const auto& seeds : rates) {
    for (std::size_t seed = 0; seed < seeds.size(); ++seed) {
      if (seeds[seed].final_loss() < best[seed].final_loss()) best[seed] = seeds[seed];
    }
  }
  return best;
}

/// network at the best of the rates.
std::vector<Outcome> trained(const Study& study, const std::string& name, const Network& network,
                             int steps, const std::vector<double>& rates) {
  std::vector<Recipe> recipes;
  for (const double rate : rates) {
    Recipe recipe;
    recipe.name = name;
    recipe.network = network;
    recipe.steps = study.steps(steps);
    recipe.rate = rate;
    recipe.look_inside = !network.residual;
    recipes.push_back(recipe);
  }
  return best_rate(study.run(name, recipes));
}

Network sigmoids(int layers, bool batch_norm) {
  Network network;
  network.function = Function::sigmoid;
  network.batch_norm = batch_norm;
  network.hidden = layers - 1;
  network.width = 64;
  return network;
}

/// Rectified linear units, with He's initial weights where no bridge carries the signal.
Network relus(int layers, bool batch_norm, bool residual) {
  Network network;
  network.batch_norm = batch_norm;
  network.residual = residual;
  network.hidden = layers - 1;
  network.width = 32;
  network.hidden_scale = residual ? 1.0 : std::sqrt(2.0);
  return network;
}

/// log10 of the first layer's gradient over the last hidden layer's, before the training.
double decades(const Outcome& outcome) {
  return std::log10(outcome.before.front().gradient / outcome.before.back().gradient);
}

/// Networks of sigmoid layers.
struct Sigmoids {
  int layers;
  std::vector<Outcome> with, without;

  Sigmoids(const Study& study, int depth) : layers(depth) {
    const std::vector<double> rates{0.03, 0.3, 3.0};
    const std::string name = std::to_string(depth) + " layers";
    with = trained(study, name + " with BN", sigmoids(depth, true), kSteps, rates);
    without = trained(study, name + " without", sigmoids(depth, false), kSteps, rates);
  }
};

/// Networks of 100 layers of rectified linear units.
struct Relus {
  std::vector<Outcome> plain, bn, residual, both;

  explicit Relus(const Study& study) {
    const auto train = [&](const std::string& name, bool batch_norm, bool bridged) {
      return trained(study, "100 layers, " + name, relus(100, batch_norm, bridged), kSteps,
                     {1e-4, 1e-3, 0.01, 0.1});
    };
    plain = train("plain", false, false);
    bn = train("BN", true, false);
    residual = train("residual", false, true);
    both = train("both", true, true);
  }
};

void add_findings(std::vector<Finding>& findings, const Sigmoids& networks) {
  const std::string layers = std::to_string(networks.layers) + " sigmoid layers: ";
  findings.push_back(above(layers + "log10 of the gradient's norm, first layer over last",
                           side("with BN", networks.with, decades),
                           side("without", networks.without, decades)));
  findings.push_back(below(layers + "training loss", side("with BN", networks.with, final_loss),
                           side("without", networks.without, final_loss)));
}

void add_findings(std::vector<Finding>& findings, const Relus& networks) {
  const Side plain = side("plain", networks.plain, final_loss);
  const Side residual = side("residual", networks.residual, final_loss);
  const std::string loss = "100 layers: training loss, ";
  findings.push_back(below(loss + "BN alone", side("BN", networks.bn, final_loss), plain));
  findings.push_back(below(loss + "residual blocks alone", residual, plain));
  findings.push_back(
      below(loss + "BN beside residual blocks", side("both", networks.both, final_loss), residual));
}

plot::Series over_layers(const std::string& name, int colour, const std::vector<Outcome>& seeds,
                         double LayerState::*what) {
  std::vector<double> x;
  std::vector<std::vector<double>> values;
  for (std::size_t layer = 0; layer < seeds.front().before.size(); ++layer) {
    x.push_back(static_cast<double>(layer + 1));
    values.emplace_back();
    for (const auto& outcome : seeds) values.back().push_back(outcome.before[layer].*what);
  }
  return curve(name, {colour, false}, x, values);
}

/// What the layers look like before the training.
plot::Chart layer_chart(const std::string& what, const Sigmoids& networks,
                        double LayerState::*member, plot::Axis axis) {
  plot::Chart chart;
  chart.heading = what + " before training, " + std::to_string(networks.layers) + " layers";
  chart.x_label = "layer";
  chart.y_axis = axis;
  chart.series = {over_layers("with BN", 0, networks.with, member),
                  over_layers("without BN", 1, networks.without, member)};
  return chart;
}

plot::Chart loss_chart(const std::string& networks, std::vector<plot::Series> series) {
  plot::Chart chart;
  chart.heading = "Training loss, " + networks;
  chart.x_label = "step";
  chart.series = std::move(series);
  return chart;
}

plot::Chart loss_chart(const Sigmoids& networks) {
  return loss_chart(std::to_string(networks.layers) + " sigmoid layers",
                    {loss_curve("with BN", {0, false}, networks.with),
                     loss_curve("without BN", {1, false}, networks.without)});
}

}  // namespace

Report vanishing_gradients(const Study& study) {
  const Sigmoids ten(study, 10), thirty(study, 30);
  const Relus hundred(study);

  Report report;
  report.setup = "Sigmoid layers of 64, and 100 ReLU layers of 32; batch 64, " +
                 std::to_string(study.steps(kSteps)) +
                 " steps at the best of the rates 0.03, 0.3, 3, and 0.0001 to 0.1";
  add_findings(report.findings, ten);
  add_findings(report.findings, thirty);
  add_findings(report.findings, hundred);

  using plot::Axis;
  const std::string gradient = "Weight gradient norm";
  report.charts = {
      layer_chart(gradient, ten, &LayerState::gradient, Axis::logarithmic),
      layer_chart(gradient, thirty, &LayerState::gradient, Axis::logarithmic),
      loss_chart(ten),
      loss_chart(thirty),
      loss_chart("100 ReLU layers", {loss_curve("BN, residual blocks", {0, false}, hundred.both),
                                     loss_curve("BN", {3, false}, hundred.bn),
                                     loss_curve("residual blocks", {2, false}, hundred.residual),
                                     loss_curve("neither", {1, false}, hundred.plain)}),
      layer_chart("Activation variance", thirty, &LayerState::variance, Axis::logarithmic),
      layer_chart("Activation mean", thirty, &LayerState::mean, Axis::linear)};
  return report;
}

}  // namespace claims
