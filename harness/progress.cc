// SPDX-License-Identifier: Apache-2.0
#include "harness/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

namespace attnbench {
namespace {

constexpr std::chrono::seconds kPlainInterval(2);

}  // namespace

std::string FormatClock(double seconds) {
  const long s = std::lround(std::clamp(seconds, 0.0, 8.6e6));
  char text[32];
  if (s >= 3600)
    std::snprintf(text, sizeof(text), "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
  else
    std::snprintf(text, sizeof(text), "%ld:%02ld", s / 60, s % 60);
  return text;
}

std::string Label(const Case& c) {
  const Problem& p = c.problem;
  std::string label = c.kernel;
  const auto add = [&](const std::string& name, Index value) {
    label += " " + name + "=" + std::to_string(value);
  };
  if (p.queries != p.keys) add("queries", p.queries);
  add("keys", p.keys);
  add("d", p.layer ? p.layer.d_model : p.head_dim);
  if (p.layer) {
    if (p.layer.d_out != p.layer.d_model) add("d_out", p.layer.d_out);
    if (p.layer.width > 0) add("width", p.layer.width);
    if (p.layer.encoding != Encoding::kNone) label += std::string(" ") + Name(p.layer.encoding);
    if (p.layer.attention != LayerShape::kAuto) label += " " + p.layer.attention;
  }
  if (p.v_dim != p.head_dim) add("dv", p.v_dim);
  if (p.batch != 1) add("batch", p.batch);
  if (p.heads != 1) add("heads", p.heads);
  if (p.kv_heads != p.heads) add("kv_heads", p.kv_heads);
  if (p.mask.pattern != Mask::Pattern::kFull) label += std::string(" ") + Name(p.mask.pattern);
  if (p.mask.window > 0) add("window", p.mask.window);
  if (p.mask.stride > 0) add("stride", p.mask.stride);
  if (p.mask.causal) label += " causal";
  if (p.dtype != DType::kF32) label += std::string(" ") + Name(p.dtype);
  if (c.threads != 1) add("threads", c.threads);
  if (c.ranks != 1) add("ranks", c.ranks);
  if (c.cache != "warm") label += " " + c.cache;
  if (c.input.kind == "tensors") {
    add("layer", c.input.layer);
    if (c.input.head != InputSpec::kAllHeads) add("head", c.input.head);
  }
  if (const Kernel* kernel = FindKernel(c.kernel)) {
    for (const Option& option : kernel->options)  // defaults would only fill the line
      if (const auto it = c.options.find(option.name);
          it != c.options.end() && it->second != option.default_value)
        add(it->first, it->second);
  }
  return label;
}

Progress::Progress(std::FILE* out) : out_(out), terminal_(isatty(fileno(out))) {}

Progress::~Progress() {
  if (open_) std::fputs("\r\033[K", out_);
}

void Progress::Begin(std::size_t k, std::size_t n, const std::string& label, double eta_s) {
  k_ = k, n_ = n, eta_s_ = eta_s;
  label_ = label;
  if (terminal_) Show(last_.empty() ? "" : " (before: " + last_ + ")", false);
}

void Progress::End(const nlohmann::json& record) {
  const std::string status = record.value("status", "");
  char figure[64] = "";
  if (status == "ok" && record.contains("gflops") && record["gflops"].is_number()) {
    const double gflops = record["gflops"];
    int length = std::snprintf(figure, sizeof(figure), "%.3g GFLOP/s", gflops);
    if (record.contains("fraction_of_ceiling") && record["fraction_of_ceiling"].is_number())
      std::snprintf(figure + length, sizeof(figure) - static_cast<std::size_t>(length), " %.0f %%",
                    100 * record["fraction_of_ceiling"].get<double>());
    last_ = label_ + " " + figure;
    const auto now = std::chrono::steady_clock::now();
    const bool due = now - last_line_ >= kPlainInterval || k_ == n_;
    if (!terminal_ && due) last_line_ = now;
    if (terminal_ || due) Show(figure, !terminal_);
    return;
  }
  Show(status + ": " + record.value("reason", ""), true);
}

void Progress::Note(const std::string& text) {
  if (open_) std::fputs("\r\033[K", out_);
  open_ = false;
  std::fprintf(out_, "%s\n", text.c_str());
  std::fflush(out_);
}

void Progress::Show(const std::string& figure, bool keep) {
  std::string line = "[" + std::to_string(k_) + "/" + std::to_string(n_) + "] " + label_;
  if (!figure.empty()) line += "  " + figure;
  if (!keep || !terminal_) line += "  ETA " + FormatClock(eta_s_);
  if (terminal_) {
    winsize window = {};
    if (!keep && ioctl(fileno(out_), TIOCGWINSZ, &window) == 0 && window.ws_col > 1)
      line.resize(std::min<std::size_t>(line.size(), window.ws_col - 1u));
    std::fprintf(out_, "\r\033[K%s%s", line.c_str(), keep ? "\n" : "");
    open_ = !keep;
  } else {
    std::fprintf(out_, "%s\n", line.c_str());
  }
  std::fflush(out_);
}

}  // namespace attnbench
