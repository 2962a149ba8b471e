// SPDX-License-Identifier: MIT
// What is printed and written after the training.
#pragma once

#include <iosfwd>
#include <vector>

#include "train.hpp"

namespace fashion_mnist {

/// epoch, loss, train and test accuracy and seconds, a row for each network and epoch.
void print_table(std::ostream& out, const std::vector<Run>& runs);

/// One sentence that compares the test accuracies after the last epoch.
void print_verdict(std::ostream& out, const std::vector<Run>& runs);

/// gamma and beta of the first batch norm layer; nothing where there is none.
void print_first_batch_norm(std::ostream& out, std::vector<Run>& runs);

void write_epochs_csv(std::ostream& out, const std::vector<Run>& runs);
void write_curves_csv(std::ostream& out, const std::vector<Run>& runs);

}  // namespace fashion_mnist
