// SPDX-License-Identifier: MIT
#include "progress.hpp"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <numeric>

namespace fashion_mnist {
namespace {

constexpr const char* kClearLine = "\r\x1b[2K";

std::size_t terminal_width() {
  winsize size{};
  const bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : 80;
}

std::string minutes_and_seconds(double seconds) {
  const auto whole = static_cast<long>(seconds + 0.5);
  char text[32];
  std::snprintf(text, sizeof text, "%ld:%02ld", whole / 60, whole % 60);
  return text;
}

/// A part of a line, with a space before it. columns is its width, which text.size() is not.
struct Piece {
  std::string text;
  std::size_t columns;
};

Piece piece(const std::string& text) { return {" " + text, text.size() + 1}; }

/// "#####------" as blocks, eighths of one at the tip.
Piece bar(double fraction, std::size_t width) {
  static const char* const tips[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  const auto eighths = static_cast<std::size_t>(fraction * static_cast<double>(8 * width));
  std::string text = " ";
  for (std::size_t i = 0; i < eighths / 8; ++i) text += "█";
  text += tips[eighths % 8];
  const std::size_t used = eighths / 8 + (eighths % 8 == 0 ? 0 : 1);
  for (std::size_t i = used; i < width; ++i) text += "·";
  return {text, width + 1};
}

Piece number(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return piece(text);
}

/// The pieces in the order in which they are printed.
enum Part : std::size_t { kLabel, kBar, kPercent, kLeft, kRate, kMeasure, kStatus, kParts };
using Parts = std::array<Piece, kParts>;

constexpr std::size_t kNarrowest = 8, kWidest = 32;  // bar

Parts parts_of(const ProgressLine& line) {
  Parts parts;
  parts[kLabel] = {line.label, line.label.size()};
  parts[kBar] = bar(line.fraction, kNarrowest);
  parts[kPercent] = number("%3.0f %%", 100.0 * line.fraction);
  parts[kLeft] = piece(" " + minutes_and_seconds(line.seconds_left) + " left");
  parts[kRate] = number(" %.0f images/s", line.rate);
  if (!line.measure.empty()) parts[kMeasure] = piece(" " + line.measure);
  parts[kStatus] = piece((line.measure.empty() ? " " : "") + line.status);
  return parts;
}

std::size_t columns_of(const Parts& parts) {
  return std::accumulate(parts.begin(), parts.end(), std::size_t{0},
                         [](std::size_t sum, const Piece& part) { return sum + part.columns; });
}

std::string joined(const Parts& parts) {
  return std::accumulate(parts.begin(), parts.end(), std::string(),
                         [](std::string text, const Piece& part) { return text + part.text; });
}

}  // namespace

std::string text_of(const ProgressLine& line, std::size_t columns) {
  Parts parts = parts_of(line);
  for (const Part part : {kRate, kMeasure, kBar, kLeft, kPercent, kLabel}) {
    if (columns_of(parts) <= columns) break;
    parts[part] = {};
    if (part == kMeasure) parts[kStatus] = piece(" " + line.status);
  }
  const std::size_t used = columns_of(parts);
  if (used > columns) return line.status.substr(0, columns);
  if (parts[kBar].columns > 0) {
    parts[kBar] = bar(line.fraction, std::min(kNarrowest + columns - used, kWidest));
  }
  return joined(parts);
}

Progress::Progress(std::size_t total) : total_(total), terminal_(isatty(STDOUT_FILENO) != 0) {}

void Progress::advance(std::size_t images, const std::string& label, const std::string& status,
                       const std::string& measure) {
  done_ += images;
  const auto now = Clock::now();
  if (now < next_) return;
  next_ = now + (terminal_ ? std::chrono::milliseconds(100) : std::chrono::seconds(5));

  ProgressLine line;
  line.label = label;
  line.fraction = static_cast<double>(done_) / static_cast<double>(total_);
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  line.rate = static_cast<double>(done_) / std::max(elapsed, 1e-9);
  line.seconds_left = static_cast<double>(total_ - done_) / line.rate;
  line.measure = measure;
  line.status = status;
  if (terminal_) {
    std::printf("%s%s", kClearLine, text_of(line, terminal_width() - 1).c_str());
  } else {
    Parts parts = parts_of(line);
    parts[kBar] = {};
    std::printf("%s\n", joined(parts).c_str());
  }
  std::fflush(stdout);
}

void Progress::line(const std::string& text) {
  std::printf("%s%s\n", terminal_ ? kClearLine : "", text.c_str());
  std::fflush(stdout);
}

}  // namespace fashion_mnist
