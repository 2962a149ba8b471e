// SPDX-License-Identifier: MIT
// Text, lines and dots of an SVG picture, and the styles that they name.
#pragma once

#include <iosfwd>
#include <string>

namespace plot {

struct Point {
  double x = 0.0;
  double y = 0.0;
};

struct Size {
  double width = 0.0;
  double height = 0.0;
};

/// Colours of curves: classes s0 (stroke), f0 (fill), a0 (a tint that fades) and b0 (a flat tint),
/// to s3 and so on; a0 and a1 alone of the fading ones.
inline constexpr int kColours = 4;

[[nodiscard]] std::string fixed(double value, int decimals);

/// Opens the picture: a card with a title and a line below it.
void begin_picture(std::ostream& out, Size size, const std::string& title,
                   const std::string& subtitle);
void end_picture(std::ostream& out);

void draw_text(std::ostream& out, Point at, const std::string& css, const std::string& text,
               const char* anchor = "start");
void draw_line(std::ostream& out, Point from, Point to, const std::string& css);
void draw_dot(std::ostream& out, Point at, const std::string& css);

}  // namespace plot
