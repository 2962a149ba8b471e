// SPDX-License-Identifier: MIT
#include "claims.hpp"

namespace claims {

const std::vector<Claim>& all_claims() {
  static const std::vector<Claim> claims{
      {"vanishing_gradients", "Gradients no longer vanish; deep networks train",
       vanishing_gradients},
      {"learning_rate", "Higher learning rates are borne", learning_rate},
      {"initial_scale", "The scale of the initial weights matters less", initial_scale},
      {"dropout", "Less dropout is needed", dropout},
      {"weight_decay", "Less weight decay is needed, but it is not replaced", weight_decay},
      {"response_norm_and_distortion",
       "No local response normalization, and less distortion of images, is needed",
       response_norm_and_distortion},
      {"preprocessing", "A batch norm before all replaces preprocessing", preprocessing},
      {"batch_size", "The size of the batches matters more", batch_size},
      {"whole_set_statistics", "Statistics of the whole training set give good results too",
       whole_set_statistics},
      {"volumes", "Volumes are normalized as images are", volumes},
  };
  return claims;
}

}  // namespace claims
