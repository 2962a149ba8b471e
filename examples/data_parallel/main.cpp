// SPDX-License-Identifier: MIT
// Trains LeNet over several processes by MPI: one learning curve, whatever their number.
// Debian packages: zlib1g-dev libopenmpi-dev dataset-fashion-mnist
// Time: about 20 seconds
#include <unistd.h>

#include <algorithm>
#include <batchnorm/mpi.hpp>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "metered.hpp"
#include "options.hpp"
#include "train.hpp"

namespace {

using namespace data_parallel;

/// A communicator of one rank: the process alone.
class Alone final : public batchnorm::Communicator {
 public:
  [[nodiscard]] int rank() const override { return 0; }
  [[nodiscard]] int size() const override { return 1; }
  [[nodiscard]] Eigen::MatrixXd all_gather(const Eigen::VectorXd& mine) override { return mine; }
};

/// Becomes `mpirun -n ranks` of this program, unless it is one of these already.
void start_ranks(int ranks, char** argv) {
  if (std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr || std::getenv("PMI_SIZE") != nullptr) return;
  for (const char* const allow :
       {"OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM",
        "OMPI_MCA_rmaps_base_oversubscribe", "OMPI_MCA_mpi_yield_when_idle"}) {
    setenv(allow, "1", /*overwrite=*/0);  // as in containers; more ranks than processors
  }
  std::string count = std::to_string(ranks), mpirun = "mpirun", n = "-n";
  std::vector<char*> command = {mpirun.data(), n.data(), count.data()};
  for (char** argument = argv; *argument != nullptr; ++argument) command.push_back(*argument);
  command.push_back(nullptr);
  execvp(command[0], command.data());
  throw std::runtime_error("[data_parallel] mpirun cannot be started: is openmpi-bin installed?");
}

double largest_difference(const Run& a, const Run& b) {
  double largest = 0;
  for (std::size_t i = 0; i < a.losses.size(); ++i) {
    largest = std::max(largest, std::abs(a.losses[i] - b.losses[i]));
  }
  return largest;
}

void print_curves(const std::vector<Run>& runs, const std::size_t batch) {
  std::printf("\nmean loss of the images between one line and the next\n");
  std::printf("   images   one process   synchronized   local statistics\n");
  const std::size_t steps = runs[0].losses.size(), lines = std::min<std::size_t>(steps, 10);
  for (std::size_t line = 0; line < lines; ++line) {
    const std::size_t begin = steps * line / lines, end = steps * (line + 1) / lines;
    std::printf("%9zu", end * batch);
    for (const Run& run : runs) {
      double sum = 0;
      for (std::size_t i = begin; i < end; ++i) sum += run.losses[i];
      std::printf("%14.6f ", sum / static_cast<double>(end - begin));
    }
    std::printf("\n");
  }
  std::printf("\ntest accuracy: one process %.4f, synchronized %.4f, local statistics %.4f\n",
              runs[0].test_accuracy, runs[1].test_accuracy, runs[2].test_accuracy);
  std::printf(
      "largest difference from one process in a batch's loss: synchronized %.1e, local "
      "statistics %.1e\n",
      largest_difference(runs[0], runs[1]), largest_difference(runs[0], runs[2]));
}

void print_cost(const Metered& world, const Run& run) {
  const auto steps = static_cast<double>(run.losses.size());
  std::printf(
      "a step of synchronized training: %.1f ms on each rank, %.1f ms of it in %.0f exchanges "
      "to which a rank gives %.0f bytes\n",
      1e3 * run.seconds / steps, 1e3 * world.seconds / steps,
      static_cast<double>(world.exchanges) / steps, world.bytes / steps);
}

void train_all(const Options& options, batchnorm::Communicator& ranks) {
  const auto train_set = fashion_mnist::read_dataset(options.data, "train");
  const auto test_set = fashion_mnist::read_dataset(options.data, "t10k");
  const std::size_t batch = options.per_rank * static_cast<std::size_t>(ranks.size());
  if (std::min(options.images, train_set.size()) < batch) {
    throw std::invalid_argument("[data_parallel] --images: expected at least a batch of " +
                                std::to_string(batch) + ", got " + std::to_string(options.images));
  }
  const bool speaks = ranks.rank() == 0;
  if (speaks) {
    std::printf(
        "LeNet with batch normalization on Fashion-MNIST: %d ranks with %zu images of each "
        "batch, learning rate %g, seed %llu\n",
        ranks.size(), options.per_rank, options.rate,
        static_cast<unsigned long long>(options.seed));
  }
  // A dot for each tenth, on any terminal: mpirun hides whether there is one.
  const auto show = [&](const char* what) {
    if (speaks) std::printf("%s ", what);
    const std::size_t tenth =
        std::min(options.images, train_set.size()) * static_cast<std::size_t>(options.epochs) / 10;
    return [speaks, tenth, done = std::size_t{0}](std::size_t images) mutable {
      const std::size_t dots = done / std::max<std::size_t>(tenth, 1);
      done += images;
      if (!speaks || done / std::max<std::size_t>(tenth, 1) == dots) return;
      std::printf(".");
      std::fflush(stdout);
    };
  };
  const auto took = [&](const Run& run) {
    if (speaks) std::printf(" %.1f s\n", run.seconds);
  };
  Alone alone;
  Metered world(ranks);
  std::vector<Run> runs(3);
  if (speaks) {
    runs[0] = train(options, batch, Statistics::of_its_own, train_set, test_set, alone,
                    show("one process     "));
    took(runs[0]);
  }
  static_cast<void>(ranks.all_gather(Eigen::VectorXd(1)));  // all start together
  runs[1] = train(options, batch, Statistics::of_all_ranks, train_set, test_set, world,
                  show("synchronized    "));
  took(runs[1]);
  const Metered of_synchronized = world;
  runs[2] = train(options, batch, Statistics::of_its_own, train_set, test_set, world,
                  show("local statistics"));
  took(runs[2]);
  if (!speaks) return;
  print_curves(runs, batch);
  print_cost(of_synchronized, runs[1]);
}

}  // namespace

int main(int argc, char** argv) try {
  const auto options = parse_options(argc, argv);
  if (!options) return EXIT_SUCCESS;
  start_ranks(options->ranks, argv);
  batchnorm::MpiRanks(argc, argv).run([&](batchnorm::Communicator& world) {
    train_all(*options, world);
  });
  return EXIT_SUCCESS;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return EXIT_FAILURE;
}
