// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "batchnorm/detail/scalar.hpp"
#include "batchnorm/error.hpp"

// The numbers of safetensors files: bytes, dtypes, and the C++ types that they are read as.
namespace batchnorm {

/// One tensor of a file. Its bytes are [begin, end) of the data that follow the header.
struct SafetensorsEntry {
  std::string dtype;  ///< F32 for example; it may be one that this library does not read
  std::vector<Eigen::Index> extents;  ///< the shape
  std::uint64_t begin = 0, end = 0;
};

/// One tensor as the bytes of a file: little-endian elements in row-major order, of any dtype.
struct SafetensorsBytes {
  std::string dtype;
  std::vector<Eigen::Index> extents;  ///< the shape
  std::vector<unsigned char> bytes;
};

namespace detail {

/// The errors of a file, whose messages start with its name.
struct InFile {
  std::filesystem::path path;

  /// Throws std::invalid_argument: the file, or a call, is not as it should be.
  [[noreturn]] void refuse(Pieces what) const {
    fail<std::invalid_argument>(name() + joined(what));
  }
  /// Throws std::runtime_error: the system does not read the file.
  [[noreturn]] void give_up(Pieces what) const { fail<std::runtime_error>(name() + joined(what)); }

  [[nodiscard]] std::string name() const { return "[safetensors] " + path.string() + ": "; }
};

/// A shape for messages: "shape [2,3]".
[[nodiscard]] inline std::string shape_text(const std::vector<Eigen::Index>& extents) {
  std::string text;
  for (const Eigen::Index extent : extents)  // by append: g++ 12 -O3 warns of a sum of strings
    text.append(text.empty() ? "" : ",").append(std::to_string(extent));
  return "shape [" + text + "]";
}

// Unsigned numbers as the little-endian bytes of files, on any machine. ---------------------------

template <class Bits>
void put_bytes(Bits bits, char* to) {
  for (std::size_t b = 0; b < sizeof bits; ++b) to[b] = static_cast<char>(bits >> 8 * b & 0xff);
}
template <class Bits>
[[nodiscard]] Bits get_bytes(const char* from) {
  std::uint64_t bits = 0;
  for (std::size_t b = 0; b < sizeof(Bits); ++b)
    bits |= std::uint64_t{static_cast<unsigned char>(from[b])} << 8 * b;
  return static_cast<Bits>(bits);
}

template <std::size_t bytes>
using UnsignedOf = std::conditional_t<
    bytes == 8, std::uint64_t,
    std::conditional_t<bytes == 4, std::uint32_t,
                       std::conditional_t<bytes == 2, std::uint16_t, std::uint8_t>>>;

/// Numbers are read and written this many bytes at a time. It is a multiple of every element.
inline constexpr std::size_t piece_bytes = 1 << 16;

// Dtypes. ----------------------------------------------------------------------------------------

template <class Scalar>
inline constexpr bool is_written_scalar = is_supported_scalar<Scalar> ||
                                          (std::is_integral_v<Scalar> &&
                                           !std::is_same_v<Scalar, char>);

/// The dtype of a C++ type. Integers go by size and sign, because long is 4 or 8 bytes long.
template <class Scalar>
[[nodiscard]] constexpr const char* dtype_of() {
  static_assert(is_written_scalar<Scalar>,
                "batchnorm: safetensors are written of float, double, Eigen::half, "
                "Eigen::bfloat16, bool and integers of 8 to 64 bits; see SafetensorsBytes for "
                "other types");
  if constexpr (std::is_same_v<Scalar, double>) return "F64";
  if constexpr (std::is_same_v<Scalar, float>) return "F32";
  if constexpr (std::is_same_v<Scalar, Eigen::half>) return "F16";
  if constexpr (std::is_same_v<Scalar, Eigen::bfloat16>) return "BF16";
  if constexpr (std::is_same_v<Scalar, bool>) return "BOOL";
  constexpr const char* names[2][4] = {{"U8", "U16", "U32", "U64"}, {"I8", "I16", "I32", "I64"}};
  constexpr std::size_t s = sizeof(Scalar), place = s == 8 ? 3 : s == 4 ? 2 : s == 2 ? 1 : 0;
  return names[std::is_signed_v<Scalar>][place];
}

/// The bytes of an element, or 0 for a dtype of unknown size. F4 and F6 are smaller than a byte.
[[nodiscard]] inline std::uint64_t bytes_of_dtype(const std::string& dtype) {
  constexpr std::pair<const char*, std::uint64_t> known[] = {
      {"F64", 8},     {"F32", 4},     {"F16", 2},         {"BF16", 2},       {"I64", 8},
      {"I32", 4},     {"I16", 2},     {"I8", 1},          {"U64", 8},        {"U32", 4},
      {"U16", 2},     {"U8", 1},      {"BOOL", 1},        {"C64", 8},        {"F8_E5M2", 1},
      {"F8_E4M3", 1}, {"F8_E8M0", 1}, {"F8_E4M3FNUZ", 1}, {"F8_E5M2FNUZ", 1}};
  for (const auto& [name, bytes] : known) {
    if (dtype == name) return bytes;
  }
  return 0;
}

/// Are the number of elements, and that of bytes if the dtype's size is known, an Index?
[[nodiscard]] inline bool is_possible_shape(const std::vector<Eigen::Index>& extents,
                                            const std::string& dtype) {
  constexpr std::uint64_t largest = (std::numeric_limits<Eigen::Index>::max)();
  // How many elements the axes that are left may have.
  std::uint64_t most = largest / (std::max<std::uint64_t>)(bytes_of_dtype(dtype), 1);
  for (const Eigen::Index extent : extents) {
    if (extent < 0 || static_cast<std::uint64_t>(extent) > most) return false;
    most /= (std::max<std::uint64_t>)(static_cast<std::uint64_t>(extent), 1);
  }
  return true;
}
/// The bytes of such a shape; 0 for a dtype of unknown size.
[[nodiscard]] inline std::uint64_t bytes_of_shape(const std::vector<Eigen::Index>& extents,
                                                  const std::string& dtype) {
  std::uint64_t bytes = bytes_of_dtype(dtype);
  for (const Eigen::Index extent : extents) bytes *= static_cast<std::uint64_t>(extent);
  return bytes;
}

inline constexpr const char* dtypes_of_numbers =
    "F64, F32, F16, BF16, I8 to I64, U8 to U64 or BOOL";

/// Calls f(a number of the dtype). Returns false if this library does not read the dtype.
template <class F>
[[nodiscard]] bool with_dtype(const std::string& dtype, const F& f) {
  const auto call_if = [&dtype, &f](auto number) {
    const bool is_this = dtype == dtype_of<decltype(number)>();
    if (is_this) f(number);
    return is_this;
  };
  return call_if(double{}) || call_if(float{}) || call_if(Eigen::half{}) ||
         call_if(Eigen::bfloat16{}) || call_if(std::int64_t{}) || call_if(std::int32_t{}) ||
         call_if(std::int16_t{}) || call_if(std::int8_t{}) || call_if(std::uint64_t{}) ||
         call_if(std::uint32_t{}) || call_if(std::uint16_t{}) || call_if(std::uint8_t{}) ||
         call_if(bool{});
}

/// Can v be converted to an Integer? Fractions can: they are cut off. Beyond the range the
/// conversion is undefined.
template <class Integer, class Number>
[[nodiscard]] bool fits(Number v) {
  if constexpr (std::is_integral_v<Number>) {
    const auto converted = static_cast<Integer>(v);
    const bool same_sign = std::is_signed_v<Integer> == std::is_signed_v<Number> ||
                           (std::is_signed_v<Integer> ? converted >= Integer{} : v >= Number{});
    return same_sign && static_cast<Number>(converted) == v;
  } else {
    const auto d = static_cast<double>(v);
    const double beyond = std::ldexp(1.0, std::numeric_limits<Integer>::digits);
    const bool is_below = std::is_signed_v<Integer> ? d < -beyond : d <= -1;
    return is_finite(d) && d < beyond && !is_below;
  }
}

/// Decodes `count` elements of a dtype. If one does not fit an integer To, it stores its value in
/// `misfit` and returns false.
template <class From, class To>
[[nodiscard]] bool decode(const char* bytes, std::size_t count, To* to, double& misfit) {
  using Bits = UnsignedOf<sizeof(From)>;
  for (std::size_t i = 0; i < count; ++i) {
    const auto bits = get_bytes<Bits>(bytes + i * sizeof(From));
    From v;
    if constexpr (std::is_same_v<From, bool>) {
      v = bits != 0;  // a byte of 2 is no bool in memory
    } else {
      v = Eigen::numext::bit_cast<From>(bits);
    }
    if constexpr (std::is_integral_v<To> && !std::is_same_v<To, From>) {
      misfit = static_cast<double>(v);
      if (!fits<To>(v)) return false;
    }
    to[i] = static_cast<To>(v);
  }
  return true;
}

}  // namespace detail
}  // namespace batchnorm
