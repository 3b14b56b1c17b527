// SPDX-License-Identifier: Apache-2.0
#include "harness/case.h"

#include <cinttypes>
#include <cstdio>

namespace attnbench {
namespace {

using nlohmann::json;

json MaskToJson(const Mask& mask) {
  json j = {{"pattern", Name(mask.pattern)}, {"window", mask.window},   {"stride", mask.stride},
            {"offset", mask.offset},         {"columns", mask.columns}, {"sinks", mask.sinks},
            {"causal", mask.causal}};
  if (mask.tiles) {
    const TileList& t = *mask.tiles;
    j["tiles"] = {{"query_tile", t.query_tile},
                  {"key_tile", t.key_tile},
                  {"row_begin", t.row_begin},
                  {"column", t.column}};
  }
  return j;
}

// Missing fields keep their defaults; a field of the wrong type is nlohmann's exception, turned
// into an error message by Guarded().
template <class T>
void Read(const json& j, const char* field, T* value) {
  if (const auto it = j.find(field); it != j.end()) it->get_to(*value);
}

template <class Enum>
void ReadName(const json& j, const char* field, Enum* value) {
  std::string name = Name(*value);
  Read(j, field, &name);
  if (!Parse(name, value))
    throw std::invalid_argument(std::string(field) + ": unknown name '" + name + "'");
}

template <class F>
std::string Guarded(F&& parse) {
  try {
    return parse();
  } catch (const std::exception& e) {
    return e.what();
  }
}

constexpr std::pair<const char*, Index TileSpec::*> kTileFields[] = {
    {"tile", &TileSpec::tile},
    {"band", &TileSpec::band},
    {"dilation", &TileSpec::dilation},
    {"global_tiles", &TileSpec::global_tiles},
    {"random_tiles", &TileSpec::random_tiles}};

// The spec of a problem's mask, if it has one.
TileSpec TilesFromJson(const json& problem) {
  TileSpec spec;
  if (const auto mask = problem.find("mask"); mask != problem.end())
    for (const auto& [name, field] : kTileFields) Read(*mask, name, &(spec.*field));
  return spec;
}

Mask MaskFromJson(const json& j) {
  Mask mask;
  ReadName(j, "pattern", &mask.pattern);
  Read(j, "window", &mask.window);
  Read(j, "stride", &mask.stride);
  Read(j, "offset", &mask.offset);
  Read(j, "columns", &mask.columns);
  Read(j, "sinks", &mask.sinks);
  Read(j, "causal", &mask.causal);
  if (const auto it = j.find("tiles"); it != j.end()) {
    auto tiles = std::make_shared<TileList>();
    Read(*it, "query_tile", &tiles->query_tile);
    Read(*it, "key_tile", &tiles->key_tile);
    Read(*it, "row_begin", &tiles->row_begin);
    Read(*it, "column", &tiles->column);
    mask.tiles = std::move(tiles);
  }
  return mask;
}

bool DefaultPositions(const Problem& p) {
  return p.positions.query_origin == p.keys - p.queries && p.positions.query_step == 1 &&
         p.positions.key_origin == 0 && p.positions.key_step == 1;
}

json ToJson(const InputSpec& input) {
  if (input.kind == "tensors")
    return {{"kind", input.kind},
            {"file", input.file},
            {"layer", input.layer},
            {"head", input.head},
            {"content", input.content}};
  if (input.kind == "calibrated") return {{"kind", input.kind}, {"head", input.head}};
  return {{"kind", input.kind}, {"logit_scale", input.logit_scale}};
}

InputSpec InputFromJson(const json& j) {
  InputSpec input;
  Read(j, "kind", &input.kind);
  if (!KnownInputKind(input.kind))
    throw std::invalid_argument("input.kind: unknown kind '" + input.kind + "'");
  Read(j, "logit_scale", &input.logit_scale);
  Read(j, "file", &input.file);
  Read(j, "layer", &input.layer);
  Read(j, "head", &input.head);
  Read(j, "content", &input.content);
  return input;
}

}  // namespace

json ToJson(const Problem& p) {
  json j = {{"batch", p.batch},        {"heads", p.heads},
            {"kv_heads", p.kv_heads},  {"queries", p.queries},
            {"keys", p.keys},          {"head_dim", p.head_dim},
            {"v_dim", p.v_dim},        {"hidden", p.hidden},
            {"dtype", Name(p.dtype)},  {"out_dtype", Name(p.out_dtype)},
            {"score", Name(p.score)},  {"scale", p.scale},
            {"softcap", p.softcap},    {"mask", MaskToJson(p.mask)},
            {"bias", p.has_bias},      {"key_lengths", p.has_key_lengths},
            {"centers", p.has_centers}};
  if (!DefaultPositions(p))
    j["positions"] = {{"query_origin", p.positions.query_origin},
                      {"query_step", p.positions.query_step},
                      {"key_origin", p.positions.key_origin},
                      {"key_step", p.positions.key_step}};
  if (p.layer) {
    j["d_model"] = p.layer.d_model;
    j["d_out"] = p.layer.d_out;
    j["width"] = p.layer.width;
    j["encoding"] = Name(p.layer.encoding);
    j["cross"] = p.layer.cross;
    j["attention"] = p.layer.attention;
  }
  return j;
}

std::string FromJson(const json& j, Problem* problem) {
  return Guarded([&]() -> std::string {
    Problem p;
    Read(j, "batch", &p.batch);
    Read(j, "heads", &p.heads);
    Read(j, "kv_heads", &p.kv_heads);
    Read(j, "queries", &p.queries);
    Read(j, "keys", &p.keys);
    Read(j, "head_dim", &p.head_dim);
    Read(j, "v_dim", &p.v_dim);
    Read(j, "hidden", &p.hidden);
    ReadName(j, "dtype", &p.dtype);
    p.out_dtype = p.dtype;
    ReadName(j, "out_dtype", &p.out_dtype);
    ReadName(j, "score", &p.score);
    Read(j, "scale", &p.scale);
    Read(j, "softcap", &p.softcap);
    if (const auto it = j.find("mask"); it != j.end()) p.mask = MaskFromJson(*it);
    Read(j, "bias", &p.has_bias);
    Read(j, "key_lengths", &p.has_key_lengths);
    Read(j, "centers", &p.has_centers);
    if (const auto it = j.find("positions"); it != j.end()) {
      Read(*it, "query_origin", &p.positions.query_origin);
      Read(*it, "query_step", &p.positions.query_step);
      Read(*it, "key_origin", &p.positions.key_origin);
      Read(*it, "key_step", &p.positions.key_step);
    }
    Read(j, "d_model", &p.layer.d_model);
    Read(j, "d_out", &p.layer.d_out);
    Read(j, "width", &p.layer.width);
    ReadName(j, "encoding", &p.layer.encoding);
    Read(j, "cross", &p.layer.cross);
    Read(j, "attention", &p.layer.attention);
    p.Resolve();
    if (const TileSpec spec = TilesFromJson(j)) {
      if (std::string e = Invalid(spec, p.queries, p.keys); !e.empty()) return e;
      p.mask.tiles = SharedTiles(spec, p.queries, p.keys, p.mask.causal);
    }
    *problem = p;
    return p.Invalid();
  });
}

json ToJson(const Case& c) {
  Problem problem = c.problem;
  if (c.tiles) problem.mask.tiles = nullptr;  // told by what it was made from
  json j = {{"kernel", c.kernel},         {"kind", c.kind},           {"options", c.options},
            {"problem", ToJson(problem)}, {"input", ToJson(c.input)}, {"seed", c.seed},
            {"threads", c.threads},       {"cache", c.cache},         {"ranks", c.ranks}};
  if (c.tiles) {
    json& mask = j["problem"]["mask"];
    for (const auto& [name, field] : kTileFields) mask[name] = c.tiles.*field;
  }
  return j;
}

std::string FromJson(const json& j, Case* c) {
  return Guarded([&]() -> std::string {
    Case parsed;
    Read(j, "kernel", &parsed.kernel);
    Read(j, "kind", &parsed.kind);
    Read(j, "options", &parsed.options);
    if (const auto it = j.find("problem"); it != j.end()) {
      if (std::string e = FromJson(*it, &parsed.problem); !e.empty()) return e;
      parsed.tiles = TilesFromJson(*it);
    } else {
      return "problem: missing";
    }
    if (const auto it = j.find("input"); it != j.end()) parsed.input = InputFromJson(*it);
    Read(j, "seed", &parsed.seed);
    Read(j, "threads", &parsed.threads);
    Read(j, "cache", &parsed.cache);
    Read(j, "ranks", &parsed.ranks);
    if (parsed.threads < 1) return "threads: must be at least 1";
    if (parsed.ranks < 1) return "ranks: must be at least 1";
    if (parsed.cache != "warm" && parsed.cache != "cold")
      return "cache: must be 'warm' or 'cold', is '" + parsed.cache + "'";
    *c = std::move(parsed);
    return "";
  });
}

bool KnownInputKind(const std::string& kind) {
  return kind == "gaussian" || kind == "outliers" || kind == "calibrated" || kind == "tensors";
}

std::string HashText(const std::string& text) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const unsigned char byte : text) hash = (hash ^ byte) * 0x100000001b3u;
  char digits[17];
  std::snprintf(digits, sizeof(digits), "%016" PRIx64, hash);
  return digits;
}

std::string Hash(const Case& c) {
  json j = ToJson(c);  // nlohmann's objects are sorted by key, so the dump is canonical
  j["input"].erase("file");
  return HashText(j.dump());
}

std::string ProblemHash(const Case& c) {
  json j = ToJson(c);
  j["input"].erase("file");
  j.erase("options");
  if (c.kind == "layer")  // each layer is a problem of its own; what computes its attention is not
    j["problem"].erase("attention");
  else
    j.erase("kernel");
  return HashText(j.dump());
}

std::string ResolveOptions(const Case& c, const Kernel& kernel, Options* options) {
  *options = Options(kernel.options);
  for (const auto& [name, value] : c.options)
    if (std::string e = options->Set(name, value); !e.empty()) return e;
  return "";
}

}  // namespace attnbench
