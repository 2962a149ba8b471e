// SPDX-License-Identifier: MIT
// Text, lines and dots of an SVG picture, and the styles that they name.
#pragma once

#include <cstddef>
#include <iosfwd>
#include <string>
#include <vector>

namespace plot {

struct Point {
  double x = 0.0;
  double y = 0.0;
};

struct Size {
  double width = 0.0;
  double height = 0.0;
};

/// Curves have colours 0 to kColours - 1. Colour 0 has the classes s0 (stroke), f0 (fill) and b0
/// (a flat tint). Colours 0 and 1 also have a0 and a1 (a tint that fades).
inline constexpr int kColours = 4;

[[nodiscard]] std::string fixed(double value, int decimals);

/// The words of text in lines of at most `columns` bytes. A longer word has a line of its own.
[[nodiscard]] std::vector<std::string> wrapped(const std::string& text, std::size_t columns);

/// Opens the picture and draws its background. Screen readers read the title; it is not drawn.
void begin_picture(std::ostream& out, Size size, const std::string& title);
void end_picture(std::ostream& out);

void draw_text(std::ostream& out, Point at, const std::string& css, const std::string& text,
               const char* anchor = "start");
void draw_line(std::ostream& out, Point from, Point to, const std::string& css);
void draw_dot(std::ostream& out, Point at, const std::string& css);

}  // namespace plot
