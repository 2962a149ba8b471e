// SPDX-License-Identifier: MIT
#include "progress.hpp"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

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

/// "#####------" as blocks, eighths of one at the tip.
std::string bar(double fraction, std::size_t width) {
  static const char* const tips[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  const auto eighths = static_cast<std::size_t>(fraction * static_cast<double>(8 * width));
  std::string text;
  for (std::size_t i = 0; i < eighths / 8; ++i) text += "█";
  text += tips[eighths % 8];
  const std::size_t used = eighths / 8 + (eighths % 8 == 0 ? 0 : 1);
  for (std::size_t i = used; i < width; ++i) text += "·";
  return text;
}

}  // namespace

Progress::Progress(std::size_t total) : total_(total), terminal_(isatty(STDOUT_FILENO) != 0) {}

void Progress::advance(std::size_t images, const std::string& epoch, const std::string& status) {
  done_ += images;
  const auto now = Clock::now();
  if (now < next_) return;
  next_ = now + (terminal_ ? std::chrono::milliseconds(100) : std::chrono::seconds(5));

  const double elapsed = std::chrono::duration<double>(now - start_).count();
  const double fraction = static_cast<double>(done_) / static_cast<double>(total_);
  const double rate = static_cast<double>(done_) / std::max(elapsed, 1e-9);
  const double left = static_cast<double>(total_ - done_) / rate;
  char numbers[96];
  std::snprintf(numbers, sizeof numbers, " %3.0f %%  %.0f images/s  %s left", 100.0 * fraction,
                rate, minutes_and_seconds(left).c_str());
  if (!terminal_) {
    std::printf("%s%s  %s\n", epoch.c_str(), numbers, status.c_str());
  } else {
    std::string right = numbers + ("  " + status);
    const std::size_t room = terminal_width() - 1;  // the last column would wrap
    const std::size_t used = epoch.size() + 2 + right.size();
    const std::size_t bar_width = std::clamp<std::size_t>(room > used ? room - used : 0, 8, 32);
    right.resize(std::min(right.size(), room - std::min(room, epoch.size() + 2 + bar_width)));
    std::printf("%s%s  %s%s", kClearLine, epoch.c_str(), bar(fraction, bar_width).c_str(),
                right.c_str());
  }
  std::fflush(stdout);
}

void Progress::line(const std::string& text) {
  std::printf("%s%s\n", terminal_ ? kClearLine : "", text.c_str());
  std::fflush(stdout);
}

}  // namespace fashion_mnist
