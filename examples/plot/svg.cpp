// SPDX-License-Identifier: MIT
#include "svg.hpp"

#include <array>
#include <cstdio>
#include <ostream>
#include <sstream>

namespace plot {
namespace {

// Colours stand in classes, so that the rules for a dark theme can replace them all.
constexpr const char* kStyle = R"(<style>
  text { font-family: Inter, "Helvetica Neue", "Segoe UI", Arial, "DejaVu Sans", sans-serif; }
  text { font-size: 15px; fill: #1c2430; }
  .card { fill: #fcfbf8; stroke: #e4e0d8; }
  .title { font-size: 20px; font-weight: 700; }
  .head { font-weight: 600; }
  .soft { fill: #5b6472; }
  .grid { stroke: #e6e2da; stroke-width: 1; }
  .axis { stroke: #9aa1ac; stroke-width: 1.2; }
  .line { fill: none; stroke-width: 2.6; stroke-linejoin: round; stroke-linecap: round; }
  .dashed { stroke-dasharray: 2 6; }
  .a0 { fill: url(#fade0); } .a1 { fill: url(#fade1); }
  .b0, .b1, .b2, .b3 { fill-opacity: 0.16; }
  .test { fill: none; stroke-width: 1.4; stroke-dasharray: 1 5; stroke-linecap: round; }
  .dot { stroke: #fcfbf8; stroke-width: 2; }
  .s0 { stroke: #0b7a75; } .f0, .b0 { fill: #0b7a75; } .c0 { stop-color: #0b7a75; }
  .s1 { stroke: #d2592a; } .f1, .b1 { fill: #d2592a; } .c1 { stop-color: #d2592a; }
  .s2 { stroke: #5a55c9; } .f2, .b2 { fill: #5a55c9; }
  .s3 { stroke: #9a7a1c; } .f3, .b3 { fill: #9a7a1c; }
  @media (prefers-color-scheme: dark) {
    text { fill: #eef1f5; } .soft { fill: #a9b2c0; }
    .card { fill: #171b22; stroke: #2c333f; } .dot { stroke: #171b22; }
    .grid { stroke: #2a313c; } .axis { stroke: #707a89; }
    .s0 { stroke: #3fc6bd; } .f0, .b0 { fill: #3fc6bd; } .c0 { stop-color: #3fc6bd; }
    .s1 { stroke: #ff9166; } .f1, .b1 { fill: #ff9166; } .c1 { stop-color: #ff9166; }
    .s2 { stroke: #a29dff; } .f2, .b2 { fill: #a29dff; }
    .s3 { stroke: #e0bd55; } .f3, .b3 { fill: #e0bd55; }
  }
</style>
<defs>
  <linearGradient id='fade0' x2='0' y2='1'><stop class='c0' offset='0' stop-opacity='0.16'/>
    <stop class='c0' offset='1' stop-opacity='0'/></linearGradient>
  <linearGradient id='fade1' x2='0' y2='1'><stop class='c1' offset='0' stop-opacity='0.16'/>
    <stop class='c1' offset='1' stop-opacity='0'/></linearGradient>
</defs>
)";

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace

std::string fixed(double value, int decimals) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%.*f", decimals, value);
  return text.data();
}

std::vector<std::string> wrapped(const std::string& text, std::size_t columns) {
  std::vector<std::string> lines;
  std::istringstream words(text);
  std::string word;
  while (words >> word) {
    if (lines.empty() || lines.back().size() + 1 + word.size() > columns) {
      lines.push_back(word);
    } else {
      lines.back() += ' ' + word;
    }
  }
  return lines;
}

void begin_picture(std::ostream& out, Size size, const std::string& title) {
  const std::string width = fixed(size.width, 0), height = fixed(size.height, 0);
  out << "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 " << width << ' ' << height
      << "' width='" << width << "' height='" << height << "' role='img'>\n<title>"
      << escaped(title) << "</title>\n"
      << kStyle << "<rect class='card' x='0.5' y='0.5' width='" << fixed(size.width - 1.0, 0)
      << "' height='" << fixed(size.height - 1.0, 0) << "' rx='14'/>\n";
}

void end_picture(std::ostream& out) { out << "</svg>\n"; }

void draw_text(std::ostream& out, Point at, const std::string& css, const std::string& text,
               const char* anchor) {
  out << "<text x='" << fixed(at.x, 1) << "' y='" << fixed(at.y, 1) << "' class='" << css
      << "' text-anchor='" << anchor << "'>" << escaped(text) << "</text>\n";
}

void draw_line(std::ostream& out, Point from, Point to, const std::string& css) {
  out << "<line x1='" << fixed(from.x, 1) << "' y1='" << fixed(from.y, 1) << "' x2='"
      << fixed(to.x, 1) << "' y2='" << fixed(to.y, 1) << "' class='" << css << "'/>\n";
}

void draw_dot(std::ostream& out, Point at, const std::string& css) {
  out << "<circle cx='" << fixed(at.x, 1) << "' cy='" << fixed(at.y, 1) << "' r='5.5' class='"
      << css << "'/>\n";
}

}  // namespace plot
