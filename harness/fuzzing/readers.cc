// SPDX-License-Identifier: Apache-2.0
#include "harness/fuzzing/readers.h"

#include <cstdio>
#include <filesystem>
#include <memory>
#include <set>
#include <stdexcept>

#include "harness/experiment.h"
#include "harness/side.h"
#include "harness/temporary_folder.h"
#include "harness/user_error.h"

namespace attnbench {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFuzzedBuild = "fuzzed";

std::string Content(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error(path.string() + ": cannot be read");
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

// Complaints belong to the user: one line, whatever is wrong.
template <class Read>
Reading Guarded(Read&& read) {
  try {
    return {.wrong = read()};
  } catch (const UserError& e) {
    const std::string line = e.what();
    const bool one = !line.empty() && line.find('\n') == std::string::npos;
    return {.refused = true, .wrong = one ? "" : "refused, but not with one line: " + line};
  } catch (const std::exception& e) {
    return {.wrong = std::string("not refused, but failed: ") + e.what()};
  }
}

std::string WrongWithExperiment(const std::string& path) {
  const Experiment experiment = LoadExperiment(path);
  for (const Case& c : experiment.cases) {
    Case back;
    if (std::string wrong = FromJson(ToJson(c), &back); !wrong.empty()) return wrong;
    if (Hash(back) != Hash(c)) return "a case that its own JSON does not give back";
  }
  return experiment.cases.empty() ? "no case, and no complaint" : "";
}

class ResumedRun {
 public:
  ResumedRun()
      : plan_(TwoCases(folder_)),
        directory_(RunDirectory::Create(folder_.File("run"))),
        silent_(std::fopen("/dev/null", "w"), std::fclose),
        progress_(silent_.get()) {}

  std::string WrongWith(const std::string& records) {
    folder_.Write("run/records.jsonl", records);
    Side side(plan_, directory_, {"", "", kFuzzedBuild, "session", 1}, &progress_);
    side.TakeUp();
    for (const auto& [i, round] : side.Slowed())
      if (i >= plan_.cases.size() || side.Due(i, round)) return "a slowed visit without a record";
    (void)side.RoundFits({0, 1});
    const RecordsRead read = ReadRecords(directory_.File("records.jsonl"));
    return read.torn_bytes == 0 ? "" : "a torn line is left";
  }

 private:
  static SweepPlan TwoCases(const TemporaryFolder& folder) {
    SweepRequest request;
    request.experiment = folder.Write("two.toml",
                                      "[axes]\nkeys = [16, 32]\nhead_dim = 8\n"
                                      "[[kernel]]\nname = \"naive\"\n");
    SweepPlan plan = MakePlan(request);
    plan.cases.at(0).hash = "a", plan.cases.at(1).hash = "b";  // that seeds can name
    return plan;
  }

  const TemporaryFolder folder_;
  const SweepPlan plan_;
  const RunDirectory directory_;
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> silent_;
  Progress progress_;
};

// The text between the first and the last quote, unescaped. Empty: a comment, or nothing.
std::string Word(const std::string& line) {
  const std::size_t begin = line.find('"'), end = line.rfind('"');
  if (line.starts_with('#') || begin == std::string::npos || end <= begin) return "";
  std::string word;
  for (std::size_t i = begin + 1; i < end; ++i) {
    if (line[i] != '\\') {
      word += line[i];
    } else if (line[++i] == 'x') {
      word += static_cast<char>(std::stoi(line.substr(i + 1, 2), nullptr, 16));
      i += 2;
    } else {
      word += line[i];
    }
  }
  return word;
}

fs::path InTree(const std::string& path) { return fs::path(ATTNBENCH_SOURCE_DIR) / path; }

}  // namespace

Reader ExperimentReader() {
  const auto folder = std::make_shared<const TemporaryFolder>();
  return [folder](const std::string& text) {
    return Guarded([&] { return WrongWithExperiment(folder->Write("fuzzed.toml", text)); });
  };
}

Reader RecordsReader() {
  const auto run = std::make_shared<ResumedRun>();
  return [run](const std::string& text) { return Guarded([&] { return run->WrongWith(text); }); };
}

FuzzStart ExperimentStart() {
  return {{"harness/fuzzing/seeds/experiments", "experiments"},
          ".toml",
          "harness/fuzzing/experiments.dict"};
}

FuzzStart RecordsStart() {
  return {{"harness/fuzzing/seeds/records"}, ".jsonl", "harness/fuzzing/records.dict"};
}

std::vector<std::string> SeedsOf(const FuzzStart& start) {
  std::vector<std::string> seeds;
  for (const std::string& folder : start.folders) {
    std::set<fs::path> paths;  // in an order that a seed of the mutator can repeat
    for (const auto& entry : fs::directory_iterator(InTree(folder)))
      if (entry.path().extension() == start.extension) paths.insert(entry.path());
    for (const fs::path& path : paths) seeds.push_back(Content(path));
  }
  return seeds;
}

std::vector<std::string> WordsOf(const FuzzStart& start) {
  std::istringstream lines(Content(InTree(start.dictionary)));
  std::vector<std::string> words;
  for (std::string line; std::getline(lines, line);)
    if (std::string word = Word(line); !word.empty()) words.push_back(std::move(word));
  return words;
}

}  // namespace attnbench
