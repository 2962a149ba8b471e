// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "batchnorm/layer.hpp"
#include "batchnorm/safetensors/metadata.hpp"
#include "batchnorm/safetensors/new_file.hpp"
#include "batchnorm/safetensors/row_major.hpp"
#include "batchnorm/state.hpp"

namespace batchnorm {

/// Collects layers and tensors, and writes them to a file at once.
///
/// A tensor with a name is not copied. The writer refers to its memory until write() returns, so
/// the tensor must keep its size and its memory that long, and write() writes the values that it
/// has then. The writer keeps temporaries and expressions itself: give it a tensor that does not
/// live long enough by std::move(x). A layer's numbers are copied.
class SafetensorsWriter {
 public:
  /// A layer's state, under names that start with `prefix`, and its options. A prefix ends with its
  /// separator: "layer1.bn."
  template <class Scalar, int spatial>
  SafetensorsWriter& add(const std::string& prefix, const BatchNorm<Scalar, spatial>& bn) {
    using Layer = BatchNorm<Scalar, spatial>;
    std::vector<Tensor> all;
    for (const auto& [name, values] : state_dict(bn, prefix)) {
      if (name == prefix + detail::counter_name) {
        Eigen::Tensor<std::int64_t, 0> counter;
        counter() = bn.num_batches_tracked();
        all.push_back(tensor(name, std::move(counter)));
      } else {
        const auto cast = values.template cast<typename Layer::Param>();
        all.push_back(tensor(name, typename Layer::Vector(cast)));
      }
    }
    insert(std::move(all));
    for (const auto& [key, value] : detail::metadata_of(prefix, bn.options()))
      metadata_[key] = value;
    return *this;
  }
  /// A vector, matrix or tensor of any rank and storage order. A row or a column is a tensor of
  /// rank 1. The elements are written in row-major order.
  template <class X, class = std::enable_if_t<detail::is_tensor<detail::Bare<X>> ||
                                              detail::is_matrix<detail::Bare<X>>>>
  SafetensorsWriter& add(const std::string& name, X&& x) {
    insert({tensor(name, std::forward<X>(x))});
    return *this;
  }
  template <class T, class A>
  SafetensorsWriter& add(const std::string&, const std::vector<T, A>&) = delete;  // Eigen::Map it
  /// A tensor of any dtype, as SafetensorsReader::bytes() returns it. Throws std::invalid_argument
  /// if it does not have the bytes of its shape, where the size of the dtype is known.
  SafetensorsWriter& add(const std::string& name, const SafetensorsBytes& x) {
    insert({tensor(name, x)});
    return *this;
  }
  SafetensorsWriter& add(const std::string& name, SafetensorsBytes&& x) {
    const auto kept = std::make_shared<const SafetensorsBytes>(std::move(x));
    insert({tensor(name, *kept, kept)});
    return *this;
  }
  SafetensorsWriter& add_metadata(const std::string& key, const std::string& value) {
    metadata_[key] = value;
    return *this;
  }

  /// Writes a new file beside `path` and renames it, so that at any time there is either the whole
  /// old file or the whole new one. If that fails, throws std::runtime_error and keeps the old
  /// file. Windows does not replace a file that is open: destroy its reader first. It needs memory
  /// for the header and a piece of 64 KB, not for the tensors.
  void write(const std::filesystem::path& path) const;

 private:
  struct Tensor {
    std::string name, dtype;
    std::vector<Eigen::Index> extents;
    detail::ElementsInMemory elements;
    std::shared_ptr<const void> kept;  ///< has the elements, unless they are the caller's
  };

  template <class X>
  [[nodiscard]] static Tensor tensor(const std::string& name, X&& x) {
    using Bare = detail::Bare<X>;
    using Argument = detail::Argument<Bare>;
    Tensor t{name, detail::dtype_of<typename Argument::Scalar>(), {}, {}, nullptr};
    if constexpr (Argument::is_direct && std::is_lvalue_reference_v<X>) {
      t.elements = detail::in_memory(x);
      t.extents = detail::file_shape(x);
    } else {
      const auto kept = std::make_shared<const typename Argument::Plain>(std::forward<X>(x));
      t.elements = detail::in_memory(*kept);
      t.extents = detail::file_shape(*kept);
      t.kept = kept;
    }
    return t;
  }
  [[nodiscard]] static Tensor tensor(const std::string& name, const SafetensorsBytes& x,
                                     std::shared_ptr<const void> kept = nullptr) {
    const auto refuse = [&](detail::Pieces what) {
      detail::fail<std::invalid_argument>("[safetensors] " + name + ": " + detail::joined(what));
    };
    if (!detail::is_possible_shape(x.extents, x.dtype))
      refuse({"expected a shape that fits a file, got ", detail::shape_text(x.extents)});
    const std::uint64_t bytes = detail::bytes_of_shape(x.extents, x.dtype);
    if (bytes != x.bytes.size() && detail::bytes_of_dtype(x.dtype) > 0) {
      refuse({"expected ", bytes, " bytes for ", x.dtype, " of ", detail::shape_text(x.extents),
              ", got ", x.bytes.size()});
    }
    const char* const data = reinterpret_cast<const char*>(x.bytes.data());
    const auto count = static_cast<Eigen::Index>(x.bytes.size());
    return {name, x.dtype, x.extents, {data, 1, {count}, {1}}, std::move(kept)};
  }
  /// Adds all tensors, or none if a name is not new.
  void insert(std::vector<Tensor> tensors) {
    const auto refuse = [](const std::string& name) {
      detail::fail<std::invalid_argument>("[safetensors] expected a new name, got " + name);
    };
    for (const Tensor& t : tensors) {  // whose names differ
      if (t.name == "__metadata__") refuse(t.name + ", which the format reserves");
      if (names_.count(t.name) > 0) refuse(t.name + " again");
    }
    tensors_.reserve(tensors_.size() + tensors.size());
    for (Tensor& t : tensors) {
      names_.insert(t.name);
      tensors_.push_back(std::move(t));
    }
  }
  /// The widest numbers first, so that each lies at a multiple of its size. Dtypes of unknown size
  /// come last.
  [[nodiscard]] std::vector<const Tensor*> in_order_of_file() const {
    std::vector<const Tensor*> sorted;
    for (const Tensor& t : tensors_) sorted.push_back(&t);
    std::stable_sort(sorted.begin(), sorted.end(), [](const Tensor* a, const Tensor* b) {
      return detail::bytes_of_dtype(a->dtype) > detail::bytes_of_dtype(b->dtype);
    });
    return sorted;
  }
  [[nodiscard]] std::string header(const std::vector<const Tensor*>& tensors) const {
    auto all = nlohmann::json::object();
    if (!metadata_.empty()) all["__metadata__"] = metadata_;
    std::uint64_t end = 0;
    for (const Tensor* t : tensors) {
      const std::uint64_t begin = std::exchange(end, end + t->elements.size_in_bytes());
      all[t->name] = {{"dtype", t->dtype}, {"shape", t->extents}, {"data_offsets", {begin, end}}};
    }
    // dump() would throw an error of its own for bytes that are no text.
    std::string text = all.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    if (nlohmann::json::parse(text) != all)
      detail::fail<std::invalid_argument>("[safetensors] expected names and metadata in UTF-8");
    text.resize((text.size() + 7) / 8 * 8, ' ');  // the data start at a multiple of 8
    return text;
  }

  std::vector<Tensor> tensors_;
  std::set<std::string> names_;
  std::map<std::string, std::string> metadata_;
};

inline void SafetensorsWriter::write(const std::filesystem::path& path) const {
  const std::vector<const Tensor*> tensors = in_order_of_file();
  const std::string text = header(tensors);
  char length[8];
  detail::put_bytes(std::uint64_t{text.size()}, length);
  detail::NewFile file(path);
  const auto put = [&](const char* bytes, std::size_t count) { file.put(bytes, count); };
  put(length, sizeof length);
  put(text.data(), text.size());
  for (const Tensor* t : tensors) detail::put_elements(t->elements, put);
  file.finish();
}

}  // namespace batchnorm
