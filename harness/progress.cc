// SPDX-License-Identifier: Apache-2.0
#include "harness/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <sstream>

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
  const Mask& mask = p.mask;
  std::string label = c.kernel;
  // Only what is not as usual: all else would fill the line.
  const auto say = [&](const std::string& word, bool unusual) {
    if (unusual) label += " " + word;
  };
  const auto add = [&](const std::string& name, auto value, bool unusual = true) {
    std::ostringstream text;
    text << name << '=' << value;
    say(text.str(), unusual);
  };
  add("queries", p.queries, p.queries != p.keys);
  add("keys", p.keys);
  add("d", p.layer ? p.layer.d_model : p.head_dim);
  if (p.layer) {
    add("d_out", p.layer.d_out, p.layer.d_out != p.layer.d_model);
    add("width", p.layer.width, p.layer.width > 0);
    add("head_dim", p.head_dim, p.head_dim * p.heads != p.layer.d_model);
    say(Name(p.layer.encoding), p.layer.encoding != Encoding::kNone);
    say("cross", p.layer.cross);
    say(p.layer.attention, p.layer.attention != LayerShape::kAuto);
  }
  add("dv", p.v_dim, p.v_dim != p.head_dim);
  add("batch", p.batch, p.batch != 1);
  add("heads", p.heads, p.heads != 1);
  add("kv_heads", p.kv_heads, p.kv_heads != p.heads);
  say(Name(p.score), p.score != Score::kScaledDot);
  add("hidden", p.hidden, p.hidden > 0);
  Problem usual = p;
  usual.scale = Problem::kDefaultScale;
  add("scale", p.scale, p.scale != usual.Resolve().scale);
  add("softcap", p.softcap, p.softcap > 0);
  say(Name(mask.pattern), mask.pattern != Mask::Pattern::kFull);
  add("window", mask.window, mask.window > 0);
  add("stride", mask.stride, mask.stride > 0);
  add("offset", mask.offset, mask.offset != Mask::kLastColumn);
  add("columns", mask.columns, mask.columns > 0);
  if (c.tiles) {
    add("tile", c.tiles.tile);
    add("band", c.tiles.band, c.tiles.band != TileSpec::kNoBand);
    add("dilation", c.tiles.dilation, c.tiles.dilation > 1);
    add("global_tiles", c.tiles.global_tiles, c.tiles.global_tiles > 0);
    add("random_tiles", c.tiles.random_tiles, c.tiles.random_tiles > 0);
  }
  add("sinks", mask.sinks, mask.sinks > 0);
  say("causal", mask.causal);
  say("bias", p.has_bias);
  say("key_lengths", p.has_key_lengths);
  say("centers", p.has_centers);
  say(Name(p.dtype), p.dtype != DType::kF32);
  add("out_dtype", Name(p.out_dtype), p.out_dtype != p.dtype);
  add("threads", c.threads, c.threads != 1);
  add("ranks", c.ranks, c.ranks != 1);
  say(c.cache, c.cache != "warm");
  say(c.input.kind, c.input.kind == "outliers");
  add("logit_scale", c.input.logit_scale, c.input.logit_scale != 1);
  add("layer", c.input.layer, c.input.kind == "tensors");
  add("head", c.input.head, c.input.head != InputSpec::kAllHeads);
  if (const Kernel* kernel = FindKernel(c.kernel))
    for (const Option& option : kernel->options)
      if (const auto it = c.options.find(option.name); it != c.options.end())
        add(option.name, it->second, it->second != option.default_value);
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
