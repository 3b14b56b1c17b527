// SPDX-License-Identifier: Apache-2.0
#include "harness/child.h"

#include <unistd.h>

#include <cstdio>
#include <exception>
#include <new>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "harness/ceilings.h"
#include "harness/list.h"
#include "harness/measure.h"
#include "kernels/contract/plugin.h"

namespace attnbench {
namespace {

using nlohmann::json;

bool WriteAll(int fd, const std::string& text) {
  for (std::size_t done = 0; done < text.size();) {
    const ssize_t n = write(fd, text.data() + done, text.size() - done);
    if (n <= 0) return false;
    done += static_cast<std::size_t>(n);
  }
  return true;
}

json Failed(const std::string& reason) { return {{"status", "failed"}, {"reason", reason}}; }

// Loads plugins and lists what they hold, so that the sweep itself need not load them.
json AnswerPlugins(const json& paths) {
  for (const std::string path : paths) {
    std::fprintf(stderr, "loading plugin '%s'\n", path.c_str());
    if (std::string wrong = LoadPlugin(path); !wrong.empty()) return Failed(wrong);
  }
  const json listed = ListKernels();
  json kernels = json::array();
  for (const json& kernel : listed)
    if (kernel["host"] == "plugin") kernels.push_back(kernel);
  return {{"status", "ok"}, {"kernels", kernels}};
}

// What a kernel or its inputs throw becomes the case's record; the child lives on.
json Answer(const json& request, const Passes& passes) {
  try {
    if (request.contains("plugins")) return AnswerPlugins(request["plugins"]);
    if (request.contains("peak"))
      return {{"status", "ok"}, {"ceilings", PeakTable(request["peak"].get<std::vector<int>>())}};
    Case c;
    if (std::string wrong = FromJson(request.at("case"), &c); !wrong.empty()) return Failed(wrong);
    const std::string pass = request.value("pass", "measure");
    if (pass == "memory") return passes.memory(c);
    if (pass == "claims") return AskClaims(c);
    if (pass != "measure")
      return Failed("pass: must be 'measure', 'memory' or 'claims', is '" + pass + "'");
    return passes.measure(c, request.value("settings", json::object()));
  } catch (const std::bad_alloc&) {
    return Failed("out of memory");
  } catch (const std::exception& e) {
    return Failed(e.what());
  }
}

}  // namespace

Passes PassesHere() {
  return {[](const Case& c, const json& settings) {
            return MeasureCase(c, MeasureSettingsFromJson(settings));
          },
          MeasureMemory};
}

int ChildLoop(int in_fd, int out_fd, const Passes& passes) {
  const int out = dup(out_fd);
  std::fflush(stdout);
  dup2(STDERR_FILENO, STDOUT_FILENO);
  std::FILE* in = fdopen(dup(in_fd), "r");
  if (out < 0 || !in) return 2;

  int status = 0;
  char* line = nullptr;
  std::size_t capacity = 0;
  for (ssize_t length; (length = getline(&line, &capacity, in)) > 0;) {
    const json request = json::parse(line, line + length, nullptr, false);
    if (!request.is_object()) {
      std::fprintf(stderr, "attnbench child: a line that is no JSON object\n");
      status = 2;
      break;
    }
    // nlohmann writes non-finite numbers as null; a reason may hold bytes that are no UTF-8.
    const std::string reply =
        Answer(request, passes).dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
    if (!WriteAll(out, reply)) break;  // the parent is gone
  }
  std::free(line);
  std::fclose(in);
  close(out);
  return status;
}

}  // namespace attnbench
