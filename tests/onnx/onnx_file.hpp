// SPDX-License-Identifier: MIT
// As much of ONNX files as batch norm's test vectors need: tensors of floats, and a graph's nodes with
// their attributes. The numbers of fields are those of onnx.proto.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace onnx {

/// One field of a protobuf message: a number (wire types 0, 1 and 5) or bytes (2).
struct Field {
  std::uint64_t number = 0, value = 0;
  std::string_view bytes;
};

/// The fields of a message, in order.
inline std::vector<Field> fields(std::string_view message) {
  std::size_t at = 0;
  const auto byte = [&] {
    if (at == message.size()) throw std::runtime_error("ONNX: a message ends early");
    return static_cast<std::uint64_t>(static_cast<unsigned char>(message[at++]));
  };
  const auto varint = [&] {
    std::uint64_t v = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const std::uint64_t b = byte();
      v |= (b & 127) << shift;
      if (b < 128) break;
    }
    return v;
  };
  const auto fixed = [&](int size) {
    std::uint64_t v = 0;
    for (int b = 0; b < size; ++b) v |= byte() << 8 * b;
    return v;
  };
  std::vector<Field> all;
  while (at < message.size()) {
    const std::uint64_t key = varint();
    Field field{key >> 3, 0, {}};
    switch (key & 7) {
      case 0:
        field.value = varint();
        break;
      case 1:
        field.value = fixed(8);
        break;
      case 5:
        field.value = fixed(4);
        break;
      case 2: {
        const std::uint64_t size = varint();
        if (size > message.size() - at) throw std::runtime_error("ONNX: a field ends early");
        field.bytes = message.substr(at, size);
        at += size;
        break;
      }
      default:
        throw std::runtime_error("ONNX: a wire type of groups");
    }
    all.push_back(field);
  }
  return all;
}

inline float float_of(std::uint64_t bits) {
  const auto b = static_cast<std::uint32_t>(bits);
  float v;
  std::memcpy(&v, &b, sizeof v);
  return v;
}

/// TensorProto, of floats.
struct Tensor {
  std::string name;
  std::vector<std::ptrdiff_t> dims;
  std::vector<float> values;

  explicit Tensor(std::string_view message) {
    for (const Field& f : fields(message)) {
      if (f.number == 1 && f.bytes.empty()) dims.push_back(static_cast<std::ptrdiff_t>(f.value));
      if (f.number == 1 && !f.bytes.empty()) throw std::runtime_error("ONNX: packed dims");
      if (f.number == 2 && f.value != 1) return;  // not of floats: no values
      if (f.number == 8) name = f.bytes;
      if (f.number == 4 && f.bytes.empty()) values.push_back(float_of(f.value));
      if (f.number == 4 || f.number == 9) {  // float_data, packed, or raw_data
        for (std::size_t at = 0; at + 4 <= f.bytes.size(); at += 4) {
          std::uint64_t bits = 0;
          for (std::size_t b = 0; b < 4; ++b) {
            bits |= std::uint64_t{static_cast<unsigned char>(f.bytes[at + b])} << 8 * b;
          }
          values.push_back(float_of(bits));
        }
      }
    }
  }
};

/// NodeProto, with its attributes that are numbers.
struct Node {
  std::string op_type;
  std::vector<std::string> inputs;
  std::map<std::string, double> attributes;

  explicit Node(std::string_view message) {
    for (const Field& f : fields(message)) {
      if (f.number == 1) inputs.emplace_back(f.bytes);
      if (f.number == 4) op_type = f.bytes;
      if (f.number != 5) continue;
      std::string name;
      double value = 0;
      for (const Field& a : fields(f.bytes)) {
        if (a.number == 1) name = a.bytes;
        if (a.number == 2) value = static_cast<double>(float_of(a.value));
        if (a.number == 3) value = static_cast<double>(a.value);
      }
      attributes[name] = value;
    }
  }
  double attribute(const std::string& name, double otherwise) const {
    const auto it = attributes.find(name);
    return it == attributes.end() ? otherwise : it->second;
  }
};

/// ModelProto's graph.
struct Graph {
  std::vector<Node> nodes;
  std::map<std::string, Tensor> initializers;

  explicit Graph(std::string_view model) {
    for (const Field& m : fields(model)) {
      if (m.number != 7) continue;
      for (const Field& g : fields(m.bytes)) {
        if (g.number == 1) nodes.emplace_back(g.bytes);
        if (g.number != 5) continue;
        Tensor t(g.bytes);
        initializers.emplace(t.name, t);
      }
    }
  }
};

inline std::string file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("ONNX: no file " + path.string());
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace onnx
