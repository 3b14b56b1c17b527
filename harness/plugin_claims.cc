// SPDX-License-Identifier: Apache-2.0
#include "harness/plugin_claims.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "harness/case.h"
#include "harness/machine.h"
#include "harness/plugins.h"
#include "harness/process.h"
#include "harness/user_error.h"
#include "harness/workers.h"
#include "kernels/contract/plugin.h"

namespace attnbench {
namespace {

using nlohmann::json;

// A claim is arithmetic; what takes this long hangs.
constexpr double kTimeoutSeconds = 20;

std::map<std::string, std::string>& PluginBuilds() {
  static std::map<std::string, std::string> builds;  // kernel -> hash of its plugins
  return builds;
}

// Asks a child that has the plugins loaded; a new one after each that died.
class ClaimServer {
 public:
  explicit ClaimServer(std::vector<std::string> plugins) : plugins_(std::move(plugins)) {}

  // The plugins' kernels, as `list --json` has them. Throws UserError.
  json Load() {
    const json reply = Start();
    if (reply["status"] != "ok") throw UserError(reply["reason"].get<std::string>());
    return reply["kernels"];
  }

  // Throws ClaimFailed. Each case is asked once: the answer, or the death, is kept.
  const json& Claims(const Case& c) {
    const std::string hash = Hash(c);
    auto it = known_.find(hash);
    if (it == known_.end()) it = known_.emplace(hash, Ask(c)).first;
    if (it->second["status"] != "ok") throw ClaimFailed(it->second["reason"].get<std::string>());
    return it->second;
  }

 private:
  static json Parse(const Answer& answer) {
    if (answer.ending != Ending::kReply) return {{"status", "failed"}, {"reason", answer.reason}};
    json reply = json::parse(answer.line, nullptr, /*allow_exceptions=*/false);
    if (reply.is_object() && reply.contains("status")) return reply;
    return {{"status", "failed"}, {"reason", "the child's answer is no record"}};
  }

  json Start() {
    child_ = std::make_unique<Child>(ChildSpec{.argv = {OwnPath(), "child"}});
    return Parse(child_->Ask(json{{"plugins", plugins_}}.dump(), kTimeoutSeconds));
  }

  json Ask(const Case& c) {
    if (!child_ || !child_->alive())
      if (json reply = Start(); reply["status"] != "ok") return reply;
    return Parse(
        child_->Ask(json{{"case", ToJson(c)}, {"pass", "claims"}}.dump(), kTimeoutSeconds));
  }

  std::vector<std::string> plugins_;
  std::unique_ptr<Child> child_;
  std::map<std::string, json> known_;
};

// Names and help texts of the stand-ins; the registry keeps views of them.
const std::string& Keep(const std::string& text) {
  static std::set<std::string> kept;
  return *kept.insert(text).first;
}

Case CaseOf(const std::string& kernel, const Problem& problem, const Options& options,
            int threads) {
  Case c;
  c.kernel = kernel;
  c.problem = problem;
  c.threads = threads;
  for (const Option& option : options.spec()) c.options[option.name] = options[option.name];
  return c;
}

Kernel StandIn(const json& listed, const std::shared_ptr<ClaimServer>& server) {
  const std::string name = listed["name"];
  Kernel kernel;
  kernel.name = Keep(name);
  kernel.idea = Keep(listed["idea"].get<std::string>());
  kernel.host = "plugin";
  for (const json& option : listed["options"])
    kernel.options.push_back({Keep(option["name"].get<std::string>()).c_str(),
                              option["default"].get<Index>(), option["min"].get<Index>(),
                              option["max"].get<Index>(),
                              Keep(option["help"].get<std::string>()).c_str()});
  kernel.refuse = [=](const Problem& p, const Options& o) {
    return server->Claims(CaseOf(name, p, o, 1))["refusal"].get<std::string>();
  };
  kernel.workspace = [=](const Problem& p, const Options& o, int threads) {
    return server->Claims(CaseOf(name, p, o, threads))["workspace_bytes"].get<std::size_t>();
  };
  kernel.executed = [=](const Problem& p, const Options& o) {
    const json& cost = server->Claims(CaseOf(name, p, o, 1))["executed"];
    return Cost{cost["flops"].get<double>(), cost["exps"].get<double>(),
                cost["bytes"].get<double>()};
  };
  kernel.run = [](const Problem&, const Inputs&, const Output&, const Context&) {
    throw std::logic_error("a plugin's kernel runs in a child process");
  };
  return kernel;
}

}  // namespace

void RegisterPluginClaims(const std::vector<std::string>& plugins) {
  if (plugins.empty()) return;
  std::string content;
  for (const std::string& plugin : plugins) {
    std::ifstream in(plugin, std::ios::binary);
    std::ostringstream text;
    text << in.rdbuf();
    content += text.str();
  }
  const auto server = std::make_shared<ClaimServer>(plugins);
  const json kernels = server->Load();
  // What a layer claims, its weights' shapes among it, is asked for in many places: where a plugin
  // has one, all are loaded here too, once they were seen to load there.
  const bool layers = std::any_of(kernels.begin(), kernels.end(), [](const json& listed) {
    return listed.value("kind", "attention") == "layer";
  });
  if (layers)
    for (const std::string& plugin : plugins)
      if (std::string e = LoadPlugin(plugin); !e.empty()) throw UserError(e);
  for (const json& listed : kernels) {
    if (!layers) RegisterKernel(StandIn(listed, server));
    PluginBuilds()[listed["name"].get<std::string>()] = HashText(content);
  }
}

std::string PluginTag(const std::string& kernel) {
  if (const Hosted* hosted = FindHosted(kernel)) return "+" + hosted->build;
  const auto it = PluginBuilds().find(kernel);
  return it == PluginBuilds().end() ? "" : "+" + it->second;
}

}  // namespace attnbench
