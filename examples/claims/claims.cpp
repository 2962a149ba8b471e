// SPDX-License-Identifier: MIT
#include "claims.hpp"

namespace claims {

const std::vector<Claim>& all_claims() {
  static const std::vector<Claim> claims{
      {"vanishing_gradients", "Gradients no longer vanish; deep networks train",
       "Do gradients no longer vanish, and do deep networks train?", vanishing_gradients},
      {"learning_rate", "Higher learning rates are borne",
       "Does training bear higher learning rates?", learning_rate},
      {"initial_scale", "The scale of the initial weights matters less",
       "Does the scale of the initial weights matter less?", initial_scale},
      {"dropout", "Less dropout is needed", "Is less dropout needed?", dropout},
      {"weight_decay", "Less weight decay is needed, but it is not replaced",
       "Is less weight decay needed, but still some?", weight_decay},
      {"response_norm_and_distortion",
       "No local response normalization, and less distortion of images, is needed",
       "Is no local response normalization needed, and less distortion of images?",
       response_norm_and_distortion},
      {"preprocessing", "A batch norm before all replaces preprocessing",
       "Does a batch norm before all layers replace preprocessing?", preprocessing},
      {"batch_size", "The size of the batches matters more",
       "Does the size of the batches matter more?", batch_size},
      {"whole_set_statistics", "Statistics of the whole training set give good results too",
       "Do statistics of the whole training set give good results too?", whole_set_statistics},
      {"volumes", "Volumes are normalized as images are",
       "Does batch normalization help with volumes as with images?", volumes},
  };
  return claims;
}

}  // namespace claims
