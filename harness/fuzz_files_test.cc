// SPDX-License-Identifier: Apache-2.0
// Mutated experiment files and record lines: each is read, or refused with one line, and quickly.
// Seeds: experiments/, results/reference/ and harness/testing/seeds/ (what broke something once is
// put there). ATTNBENCH_FUZZ_SECONDS (default 2) lasts longer, ATTNBENCH_FUZZ_SEED repeats a run.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>

#include "harness/experiment.h"
#include "harness/inputs.h"
#include "harness/machine.h"
#include "harness/side.h"
#include "harness/testing.h"
#include "harness/user_error.h"

namespace attnbench {
namespace {

using Clock = std::chrono::steady_clock;

double Since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

std::uint64_t FromEnvironment(const char* name, std::uint64_t otherwise) {
  const char* value = std::getenv(name);
  return value ? std::strtoull(value, nullptr, 10) : otherwise;
}

std::string Content(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

std::vector<std::string> Seeds(const std::string& folder, const std::string& extension) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(ATTNBENCH_SOURCE_DIR "/" + folder))
    if (entry.path().extension() == extension) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  std::vector<std::string> seeds;
  for (const auto& path : paths) seeds.push_back(Content(path));
  return seeds;
}

class Mutator {
 public:
  Mutator(std::vector<std::string> seeds, std::vector<std::string> words, std::uint64_t seed)
      : seeds_(std::move(seeds)), words_(std::move(words)), random_(seed) {}

  std::string Next() {
    std::string text = Pick(seeds_);
    for (Index n = random_.Between(1, 3); n > 0; --n) Mutate(&text);
    return text;
  }

 private:
  const std::string& Pick(const std::vector<std::string>& of) {
    return of[static_cast<std::size_t>(random_.Below(std::ssize(of)))];
  }
  std::size_t Place(const std::string& text) {
    return static_cast<std::size_t>(random_.Below(std::ssize(text) + 1));
  }

  void Mutate(std::string* text) {
    const std::size_t at = Place(*text), length = static_cast<std::size_t>(random_.Between(1, 40));
    switch (random_.Below(7)) {
      case 0:  // another byte
        if (at < text->size()) (*text)[at] = static_cast<char>(random_.Below(256));
        break;
      case 1:
        text->erase(std::min(at, text->size()), length);
        break;
      case 2:  // the same again, elsewhere
        text->insert(Place(*text), text->substr(std::min(at, text->size()), length));
        break;
      case 3:
        text->insert(at, Pick(words_));
        break;
      case 4: {  // the rest of another
        const std::string& other = Pick(seeds_);
        *text = text->substr(0, at) + other.substr(Place(other));
        break;
      }
      case 5:  // cut off
        text->resize(at);
        break;
      case 6: {  // another word in the place of a number
        const std::size_t digit = text->find_first_of("0123456789", at);
        if (digit == std::string::npos) break;
        const std::size_t end = text->find_first_not_of("0123456789.e+-", digit);
        text->replace(digit, end - digit, Pick(words_));
        break;
      }
    }
  }

  std::vector<std::string> seeds_, words_;
  Random random_;
};

// Runs `read` on mutants until the time is up. It returns what is wrong with its answer.
template <class Read>
void Fuzz(Mutator* mutator, std::uint64_t seed, Read&& read) {
  const double seconds = static_cast<double>(FromEnvironment("ATTNBENCH_FUZZ_SECONDS", 2));
  const auto begin = Clock::now();
  std::size_t inputs = 0, refused = 0;
  while (Since(begin) < seconds) {
    const std::string text = mutator->Next();
    std::string wrong;
    try {
      wrong = read(text);
    } catch (const UserError& e) {
      ++refused;
      const std::string line = e.what();
      if (line.empty() || line.find('\n') != std::string::npos)
        wrong = "refused, but not with one line: " + line;
    } catch (const std::exception& e) {
      wrong = std::string("not refused, but failed: ") + e.what();
    }
    ASSERT_EQ(wrong, "") << "seed " << seed << ", input " << inputs << ":\n" << text;
    ++inputs;
  }
  std::printf("fuzzed %zu inputs from seed %llu, %zu of them refused\n", inputs,
              static_cast<unsigned long long>(seed), refused);
  EXPECT_GT(inputs, 0u);
}

std::uint64_t Seed() {
  return FromEnvironment("ATTNBENCH_FUZZ_SEED",
                         static_cast<std::uint64_t>(
                             std::chrono::system_clock::now().time_since_epoch().count() / 1000));
}

TEST(FuzzFiles, AnExperimentIsReadOrRefusedWithOneLine) {
  const TemporaryFolder folder;
  std::vector<std::string> seeds = Seeds("harness/testing/seeds", ".toml");
  for (const std::string& unharmed : seeds)
    ASSERT_NO_THROW(LoadExperiment(folder.Write("seed.toml", unharmed))) << unharmed;
  for (std::string& seed : Seeds("experiments", ".toml")) seeds.push_back(seed);
  const std::uint64_t seed = Seed();
  Mutator mutator(seeds,
                  {"0",
                   "-1",
                   "1",
                   "9223372036854775807",
                   "-9223372036854775808",
                   "1e308",
                   "nan",
                   "inf",
                   "0.1",
                   "\"\"",
                   "true",
                   "[]",
                   "{}",
                   "[[]]",
                   "\"1:100000000:+1\"",
                   "\"1:9223372036854775807:*2\"",
                   "\"8:1:*1\"",
                   "\"::\"",
                   "keys",
                   "head_dim",
                   "[axes]",
                   "[[kernel]]",
                   "[sweep]",
                   "[input]",
                   "kind = \"tensors\"",
                   "name",
                   "mask",
                   "tiles",
                   "pattern = \"fixed\"",
                   "\n",
                   "\"",
                   "=",
                   ",",
                   "\xff",
                   "*",
                   "zip = [[\"keys\", \"queries\"]]",
                   "1979-05-27"},
                  seed);
  Fuzz(&mutator, seed, [&](const std::string& text) -> std::string {
    const Experiment experiment = LoadExperiment(folder.Write("mutant.toml", text));
    for (const Case& c : experiment.cases) {
      Case back;
      if (std::string wrong = FromJson(ToJson(c), &back); !wrong.empty()) return wrong;
      if (Hash(back) != Hash(c)) return "a case that its own JSON does not give back";
    }
    return experiment.cases.empty() ? "no case, and no complaint" : "";
  });
}

TEST(FuzzFiles, RecordsOfAnyContentAreTakenUp) {
  const TemporaryFolder folder;
  // Two cases, and records of them as this build writes them.
  const std::string file = folder.Write("small.toml",
                                        "[axes]\nkeys = [16, 32]\nhead_dim = 8\n"
                                        "[[kernel]]\nname = \"naive\"\n");
  SweepRequest request;
  request.experiment = file;
  const SweepPlan plan = MakePlan(request);
  const RunDirectory directory = RunDirectory::Create(folder.File("run"));
  const std::string reference = Content(ATTNBENCH_SOURCE_DIR "/results/reference/records.jsonl");
  std::string lines;
  std::size_t begin = 0;
  for (int i = 0; i < 12; ++i) {
    const std::size_t end = reference.find('\n', begin);
    nlohmann::json record = nlohmann::json::parse(reference.substr(begin, end - begin));
    record["case"] = plan.cases[static_cast<std::size_t>(i % 2)].hash;
    record["build"] = BuildId();
    record["samples_ns"] = {1, 2, 3};
    lines += RecordLine(record);
    begin = end + 1;
  }
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> silent(std::fopen("/dev/null", "w"),
                                                               std::fclose);
  Progress progress(silent.get());
  const std::uint64_t seed = Seed();
  Mutator mutator({lines},
                  {"null",
                   "-1",
                   "1e999",
                   "[]",
                   "{}",
                   "\"\"",
                   "true",
                   "\"slowed\"",
                   "\"round\":",
                   "\"case\":",
                   "\"status\":",
                   "\"flags\":",
                   "\"median_ns\":",
                   "99999999999999999999",
                   "\n",
                   "\"",
                   "{",
                   "}",
                   ",",
                   "\xff\xfe"},
                  seed);
  const double seconds = static_cast<double>(FromEnvironment("ATTNBENCH_FUZZ_SECONDS", 2));
  std::size_t inputs = 0;
  for (const auto started = Clock::now(); Since(started) < seconds; ++inputs) {
    const std::string text = mutator.Next();
    folder.Write("run/records.jsonl", text);
    Side side(plan, directory, {"", "", BuildId(), "session", 1}, &progress);
    ASSERT_NO_THROW(side.TakeUp()) << "seed " << seed << ":\n" << text;
    ASSERT_NO_THROW(side.Slowed()) << "seed " << seed << ":\n" << text;
    const RecordsRead read = ReadRecords(folder.File("run/records.jsonl"));
    ASSERT_EQ(read.torn_bytes, 0u) << "seed " << seed << ":\n" << text;
  }
  std::printf("fuzzed %zu record files from seed %llu\n", inputs,
              static_cast<unsigned long long>(seed));
}

}  // namespace
}  // namespace attnbench
