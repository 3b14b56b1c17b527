// SPDX-License-Identifier: Apache-2.0
#include "harness/list.h"

#include <algorithm>
#include <fstream>
#include <regex>
#include <sstream>

#include "harness/experiment.h"
#include "harness/plugins.h"
#include "kernels/ranks.h"

namespace attnbench {
namespace {

using nlohmann::json;

// A peer's one line, read from its file: starting Python and its packages to list names would take
// seconds.
std::string IdeaOfPeer(const std::string& name) {
  if (const Hosted* hosted = FindHosted(name)) return hosted->idea;
  std::ifstream in(PeersFolder() + "/" + name + ".py");
  std::ostringstream text;
  text << in.rdbuf();
  const std::string source = text.str();
  static const std::regex pattern("\\bidea=\\(?\\s*\"([^\"]*)\"");
  std::smatch match;
  return std::regex_search(source, match, pattern) ? match[1].str() : "";
}

// "cpp", "python"; "cpp layer".
std::string Host(const json& kernel) {
  return kernel["host"].get<std::string>() + (kernel["kind"] == "layer" ? " layer" : "");
}

}  // namespace

json ListKernels() {
  json kernels = json::array();
  std::vector<const Kernel*> native = Kernels();
  for (const Kernel* layer : Layers()) native.push_back(layer);
  for (const Kernel* kernel : native) {
    json options = json::array();
    for (const Option& option : kernel->options)
      options.push_back({{"name", option.name},
                         {"default", option.default_value},
                         {"min", option.min},
                         {"max", option.max},
                         {"help", option.help}});
    json provides = json::array();
    if (kernel->provides & kLse) provides.push_back("lse");
    if (kernel->provides & kWeights) provides.push_back("weights");
    kernels.push_back({{"name", kernel->name},
                       {"kind", kernel->layer ? "layer" : "attention"},
                       {"host", kernel->host},
                       {"idea", kernel->idea},
                       {"target", kernel->target ? json(kernel->target()) : json("baseline")},
                       {"provides", provides},
                       {"ranks", DistributionOf(*kernel) != nullptr},
                       {"options", options}});
  }
  for (const std::string& peer : Peers())
    if (!FindKernel(peer))
      kernels.push_back({{"name", peer},
                         {"kind", "attention"},
                         {"host", "python"},
                         {"idea", IdeaOfPeer(peer)},
                         {"target", nullptr},
                         {"provides", json::array()},
                         {"ranks", false},
                         {"options", json::array()}});
  return kernels;
}

std::string FormatKernelList(const json& kernels) {
  std::size_t name_width = 0, host_width = 0;
  for (const json& kernel : kernels) {
    name_width = std::max(name_width, kernel["name"].get<std::string>().size());
    host_width = std::max(host_width, Host(kernel).size());
  }
  const auto padded = [](std::string text, std::size_t width) {
    text.resize(std::max(text.size(), width), ' ');
    return text;
  };
  std::string text;
  for (const json& kernel : kernels) {
    text += padded(kernel["name"], name_width) + "  " + padded(Host(kernel), host_width) + "  " +
            kernel["idea"].get<std::string>() + "\n";
    for (const json& option : kernel["options"])
      text += std::string(name_width + host_width + 4, ' ') + "option " +
              option["name"].get<std::string>() + " = " + option["default"].dump() + " (" +
              option["min"].dump() + " ... " + option["max"].dump() +
              "): " + option["help"].get<std::string>() + "\n";
  }
  return text;
}

}  // namespace attnbench
