// SPDX-License-Identifier: MIT
// Sigmoid networks of 10 and 30 layers, looked into, and networks of 100 layers.
#include <cmath>

#include "claims.hpp"
#include "curves.hpp"

namespace claims {
namespace {

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

using States = std::vector<LayerState>;

plot::Series over_layers(const std::string& name, Style style, const std::vector<Outcome>& seeds,
                         States Outcome::*when, double LayerState::*what) {
  std::vector<double> x;
  std::vector<std::vector<double>> values;
  for (std::size_t layer = 0; layer < (seeds.front().*when).size(); ++layer) {
    x.push_back(static_cast<double>(layer + 1));
    values.emplace_back();
    for (const auto& outcome : seeds) values.back().push_back((outcome.*when)[layer].*what);
  }
  return curve(name, style, x, values);
}

}  // namespace

Report vanishing_gradients(const Study& study) {
  const int steps = 120;
  const std::vector<double> rates{0.03, 0.3, 3.0}, low_rates{1e-4, 1e-3, 0.01, 0.1};
  std::vector<Outcome> with[2], without[2];
  const int depths[] = {10, 30};
  for (int i = 0; i < 2; ++i) {
    const std::string layers = std::to_string(depths[i]) + " layers";
    with[i] = trained(study, layers + " with BN", sigmoids(depths[i], true), steps, rates);
    without[i] = trained(study, layers + " without", sigmoids(depths[i], false), steps, rates);
  }
  const auto plain =
      trained(study, "100 layers, plain", relus(100, false, false), steps, low_rates);
  const auto bn = trained(study, "100 layers, BN", relus(100, true, false), steps, low_rates);
  const auto bridged =
      trained(study, "100 layers, residual", relus(100, false, true), steps, low_rates);
  const auto both = trained(study, "100 layers, both", relus(100, true, true), steps, low_rates);

  Report report;
  report.setup = "Sigmoid layers of 64, and 100 ReLU layers of 32; batch 64, " +
                 std::to_string(study.steps(steps)) +
                 " steps at the best of the rates 0.03, 0.3, 3, and 0.0001 to 0.1";
  for (int i = 0; i < 2; ++i) {
    const std::string layers = std::to_string(depths[i]) + " sigmoid layers: ";
    report.findings.push_back(above(layers + "log10 of the gradient's norm, first layer over last",
                                    side("with BN", with[i], decades),
                                    side("without", without[i], decades)));
    report.findings.push_back(below(layers + "training loss", side("with BN", with[i], final_loss),
                                    side("without", without[i], final_loss)));
  }
  report.findings.push_back(below("100 layers: training loss, BN alone", side("BN", bn, final_loss),
                                  side("plain", plain, final_loss)));
  report.findings.push_back(below("100 layers: training loss, residual blocks alone",
                                  side("residual", bridged, final_loss),
                                  side("plain", plain, final_loss)));
  report.findings.push_back(below("100 layers: training loss, BN beside residual blocks",
                                  side("both", both, final_loss),
                                  side("residual", bridged, final_loss)));

  struct Quantity {
    const char* heading;
    States Outcome::*when;
    double LayerState::*what;
    plot::Axis axis;
  };
  const Quantity quantities[] = {
      {"Mean of the activations, before training", &Outcome::before, &LayerState::mean,
       plot::Axis::linear},
      {"Variance of the activations, before training", &Outcome::before, &LayerState::variance,
       plot::Axis::logarithmic},
      {"Saturated share (below 0.05, above 0.95), after training", &Outcome::after,
       &LayerState::saturated, plot::Axis::linear},
      {"Norm of the weights' gradient, before training", &Outcome::before, &LayerState::gradient,
       plot::Axis::logarithmic}};
  for (const auto& quantity : quantities) {
    plot::Chart chart;
    chart.heading = quantity.heading;
    chart.x_label = "layer";
    chart.y_axis = quantity.axis;
    for (int i = 0; i < 2; ++i) {
      const std::string layers = std::to_string(depths[i]);
      chart.series.push_back(
          over_layers(layers + " with BN", {0, i == 0}, with[i], quantity.when, quantity.what));
      chart.series.push_back(
          over_layers(layers + " without", {1, i == 0}, without[i], quantity.when, quantity.what));
    }
    report.charts.push_back(chart);
  }
  plot::Chart losses;
  losses.heading = "Training loss, sigmoid layers";
  losses.x_label = "step";
  for (int i = 0; i < 2; ++i) {
    const std::string layers = std::to_string(depths[i]);
    losses.series.push_back(loss_curve(layers + " with BN", {0, i == 0}, with[i]));
    losses.series.push_back(loss_curve(layers + " without", {1, i == 0}, without[i]));
  }
  report.charts.push_back(losses);
  losses.heading = "Training loss, 100 ReLU layers";
  losses.series = {loss_curve("BN + residual", {0, false}, both), loss_curve("BN", {0, true}, bn),
                   loss_curve("residual", {2, false}, bridged),
                   loss_curve("plain", {1, false}, plain)};
  report.charts.push_back(losses);
  return report;
}

}  // namespace claims
