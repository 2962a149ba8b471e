// SPDX-License-Identifier: MIT
// Measures on Fashion-MNIST ten claims of what batch normalization does, and draws the curves.
// Debian packages: zlib1g-dev libcxxopts-dev dataset-fashion-mnist
// Time: about a minute for three claims, 3.5 minutes with --full
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <iostream>

#include "caption.hpp"
#include "options.hpp"
#include "out_folder.hpp"
#include "report.hpp"

namespace {

using namespace claims;

void run(const Options& options) {
  const Source source{fashion_mnist::read_dataset(options.data, "train"),
                      fashion_mnist::read_dataset(options.data, "t10k")};
  const std::filesystem::path folder = options.out;
  fashion_mnist::make_folder("claims", folder);
  const Study study(source, options.effort);
  std::cout << options.claims.size() << " of " << all_claims().size() << " claims; "
            << description(options.effort) << "; " << options.effort.threads
            << (options.effort.threads == 1 ? " thread" : " threads") << std::endl;
  if (!gives_verdicts(options.effort)) std::cout << kNoVerdicts << std::endl;

  const auto start = std::chrono::steady_clock::now();
  std::vector<Examined> all;
  for (const std::size_t number : options.claims) {
    const Claim& claim = all_claims()[number - 1];
    all.push_back({number, &claim, claim.examine(study)});
    const Examined& examined = all.back();
    print(std::cout, examined, options.effort);
    const auto picture = folder / (std::string(claim.name) + ".svg");
    fashion_mnist::write_file("claims", picture, [&](std::ostream& out) {
      plot::write_svg(out, picture_of(examined, options.effort));
    });
    std::cout << "   " << picture.string() << std::endl;
  }
  const auto verdicts = folder / "verdicts.md";
  fashion_mnist::write_file("claims", verdicts,
                            [&](std::ostream& out) { write_markdown(out, all, options.effort); });
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::cout << "\n" << verdicts.string() << ", after " << std::lround(seconds.count()) << " s\n";
}

}  // namespace

int main(int argc, char** argv) try {
  if (const auto options = parse_options(argc, argv)) run(*options);
  return EXIT_SUCCESS;
} catch (const std::exception& error) {
  std::cerr << error.what() << std::endl;
  return EXIT_FAILURE;
}
