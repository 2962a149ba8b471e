// SPDX-License-Identifier: MIT
#include "claims.hpp"

namespace claims {

const std::vector<Claim>& all_claims() {
  static const std::vector<Claim> claims{
      {"vanishing_gradients", "Gradients no longer vanish; deep networks train",
       "Do gradients no longer vanish, and do deep networks train with BN?", vanishing_gradients},
      {"learning_rate", "Higher learning rates are borne", "Does BN allow higher learning rates?",
       learning_rate},
      {"initial_scale", "The scale of the initial weights matters less",
       "Does the scale of the initial weights matter less with BN?", initial_scale},
      {"dropout", "Less dropout is needed", "Is less dropout needed with BN?", dropout},
      {"weight_decay", "Less weight decay is needed, but it is not replaced",
       "Is less weight decay needed with BN, but still some?", weight_decay},
      {"response_norm_and_distortion",
       "No local response normalization, and less distortion of images, is needed",
       "Does BN replace local response normalization, and is less distortion of images needed?",
       response_norm_and_distortion},
      {"preprocessing", "A batch norm before all replaces preprocessing",
       "Does a BN layer before all others replace preprocessing?", preprocessing},
      {"batch_size", "The size of the batches matters more",
       "Does the batch size matter more with BN?", batch_size},
      {"whole_set_statistics", "Statistics of the whole training set give good results too",
       "Does BN also work with statistics of the whole training set?", whole_set_statistics},
      {"volumes", "Volumes are normalized as images are",
       "Does BN help with volumes as it does with images?", volumes},
  };
  return claims;
}

}  // namespace claims
