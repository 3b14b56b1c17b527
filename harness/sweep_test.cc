// SPDX-License-Identifier: Apache-2.0
// Sweeps as their users run them, with kernels that crash, hang, lie and throw.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "harness/record.h"
#include "harness/testing.h"

namespace attnbench {
namespace {

using nlohmann::json;

constexpr char kSmall[] =
    "[sweep]\nrounds = 2\nmax_seconds_per_case = 0.01\nrepeat_slowed = false\n"
    "[axes]\nkeys = [16, 32]\nhead_dim = 8\n"
    "[[kernel]]\nname = \"naive\"\n";

std::pair<std::string, int> CaseAndRound(const json& record) {
  return {record["case"].get<std::string>(), record["round"].get<int>()};
}

class SweepTest : public testing::Test {
 protected:
  Outcome Sweep(const std::string& text, const std::string& arguments = "",
                const std::string& run = "run") {
    const std::string file = folder_.Write("small.toml", text);
    return Harness("sweep " + file + " -o " + folder_.File(run) + " " + arguments);
  }
  std::vector<json> Records(const std::string& run = "run") const {
    return ReadRecords(folder_.File(run) + "/records.jsonl").records;
  }
  static std::string Entry(const std::string& kernel) {
    return "[[kernel]]\nname = \"" + kernel + "\"\n";
  }

  TemporaryFolder folder_;
};

TEST_F(SweepTest, EveryCaseHasARecordARoundWithItsError) {
  const Outcome outcome = Sweep(kSmall);
  ASSERT_EQ(outcome.status, 0) << outcome.output;
  EXPECT_NE(outcome.output.find("run: " + folder_.File("run") + "\n"), std::string::npos);
  const auto records = Records();
  ASSERT_EQ(records.size(), 4u);
  std::set<std::pair<std::string, int>> seen;
  for (const json& record : records) {
    EXPECT_TRUE(seen.insert(CaseAndRound(record)).second);
    EXPECT_EQ(record["status"], "ok");
    for (const char* field : {"schema",
                              "run",
                              "session",
                              "build",
                              "started",
                              "experiment",
                              "case",
                              "round",
                              "kernel",
                              "kind",
                              "host",
                              "options",
                              "target",
                              "status",
                              "reason",
                              "problem",
                              "threads",
                              "cpus",
                              "ranks",
                              "input",
                              "seed",
                              "cache",
                              "samples_ns",
                              "median_ns",
                              "ci95_ns",
                              "stop",
                              "flags",
                              "useful",
                              "executed",
                              "workspace_bytes",
                              "peak_rss_bytes",
                              "predicted_bytes",
                              "error",
                              "error_frobenius",
                              "tolerance",
                              "rows_checked",
                              "gflops",
                              "ceiling_gflops",
                              "fraction_of_ceiling"})
      EXPECT_TRUE(record.contains(field)) << field;
    EXPECT_GT(record["samples_ns"].size(), 0u);
    EXPECT_LE(record["error"].get<double>(), record["tolerance"].get<double>());
  }
  for (const char* file : {"experiment.toml", "environment.json", "run.json"})
    EXPECT_TRUE(std::filesystem::exists(folder_.File("run") + "/" + file)) << file;
  EXPECT_EQ(folder_.Read("run/experiment.toml"), kSmall);
}

TEST_F(SweepTest, LayersAreCheckedTimedAndRecordedAsKernelsAre) {
  const Outcome outcome = Sweep(
      "[sweep]\nrounds = 1\nmax_seconds_per_case = 0.01\nrepeat_slowed = false\n"
      "[axes]\nkeys = 20\nd_model = 12\n"
      "[[kernel]]\nname = [\"rnn\", \"lstm\", \"gru\"]\n"
      "[[kernel]]\nname = \"convolution\"\nwidth = 3\n"
      "[[kernel]]\nname = \"self_attention\"\nheads = 3\nencoding = \"alibi\"\n"
      "[[kernel]]\nname = \"self_attention\"\nattention = \"split_keys\"\ncache = \"cold\"\n"
      "mask = {pattern = \"strided\", window = 2, stride = 5}\n");
  ASSERT_EQ(outcome.status, 0) << outcome.output;
  const auto records = Records();
  ASSERT_EQ(records.size(), 6u);
  for (const json& record : records) {
    EXPECT_EQ(record["kind"], "layer");
    EXPECT_FALSE(record.contains("problem"));
    EXPECT_EQ(record["layer_problem"]["d_model"], 12);
    if (record["status"] == "refused") {
      EXPECT_EQ(record["reason"].get<std::string>().find("attention: 'split_keys'"), 0u);
      continue;
    }
    EXPECT_EQ(record["status"], "ok") << record;
    const bool recurs =
        record["kernel"] == "rnn" || record["kernel"] == "lstm" || record["kernel"] == "gru";
    EXPECT_EQ(record["sequential_operations"], recurs ? 20 : 1);
    EXPECT_GT(record["parameters"], 12 * 12 - 1);
    EXPECT_GT(record["useful"]["flops"], 2 * 20 * 12 * 12 - 1);
    EXPECT_LE(record["error"], record["tolerance"]);
    EXPECT_EQ(record["rows_checked"], 20);
    EXPECT_TRUE(record["peak_rss_bytes"].is_number());
  }
}

TEST_F(SweepTest, KernelsThatFailAreRecordedAndTheSweepGoesOn) {
  std::string text = kSmall, arguments;
  for (const char* kernel : {"crash", "wrong", "throws"}) {
    text += Entry(kernel);
    arguments += " --plugin " + TestPlugin(kernel);
  }
  const Outcome outcome = Sweep(text, arguments);
  ASSERT_EQ(outcome.status, 0) << outcome.output;
  std::map<std::string, int> count;
  for (const json& record : Records()) {
    const std::string kernel = record["kernel"], status = record["status"];
    ++count[kernel];
    if (kernel == "naive") {
      EXPECT_EQ(status, "ok");
    }
    if (kernel == "crash") {
      EXPECT_EQ(status, "failed");
      EXPECT_EQ(record["reason"].get<std::string>().substr(0, 17), "killed by SIGSEGV");
    }
    if (kernel == "wrong") {
      EXPECT_EQ(status, "incorrect");
      EXPECT_GT(record["error"].get<double>(), record["tolerance"].get<double>());
      EXPECT_FALSE(record.contains("samples_ns")) << "a wrong kernel is not timed";
    }
    if (kernel == "throws") {
      EXPECT_EQ(status, "failed");
    }
    if (kernel != "naive") {
      EXPECT_EQ(record["host"], "plugin");
    }
  }
  EXPECT_EQ(count["naive"], 4);
  for (const char* kernel : {"crash", "wrong", "throws"})
    EXPECT_EQ(count[kernel], 2) << kernel << ": one record a case, and no second round";
}

TEST_F(SweepTest, AnIllegalInstructionIsNamed) {
  Sweep(kSmall + Entry("illegal"), "-k illegal --plugin " + TestPlugin("illegal"));
  ASSERT_EQ(Records().size(), 2u);
  for (const json& record : Records())
    EXPECT_EQ(record["reason"].get<std::string>().substr(0, 16), "killed by SIGILL");
}

TEST_F(SweepTest, AKernelThatTakesAllMemoryIsStopped) {
  const Outcome outcome =
      Sweep("[sweep]\nrounds = 1\nmax_seconds_per_case = 0.01\n[axes]\nkeys = 16\nhead_dim = 8\n" +
                Entry("exhausts"),
            "--plugin " + TestPlugin("exhausts"));
  ASSERT_EQ(outcome.status, 0) << outcome.output;
  ASSERT_EQ(Records().size(), 1u);
  EXPECT_EQ(Records()[0]["status"], "failed") << Records()[0]["reason"];
}

TEST_F(SweepTest, AHangEndsAtTheTimeOut) {
  const std::string text =
      "[sweep]\nrounds = 2\nmax_seconds_per_case = 0.01\ntimeout_s = 0.5\n"
      "[axes]\nkeys = 16\nhead_dim = 8\n" +
      Entry("hang");
  const Outcome outcome = Sweep(text, "--plugin " + TestPlugin("hang"));
  ASSERT_EQ(outcome.status, 0) << outcome.output;
  ASSERT_EQ(Records().size(), 1u);
  EXPECT_EQ(Records()[0]["status"], "timeout");
  EXPECT_EQ(Records()[0]["reason"], "no answer within 0.5 s; killed");
}

TEST_F(SweepTest, SharedChildrenFallBackToOnesOfTheirOwn) {
  const std::string text =
      "[sweep]\nrounds = 2\nmax_seconds_per_case = 0.01\nisolation = \"problem\"\n"
      "repeat_slowed = false\n"
      "[axes]\nkeys = [16, 32]\nhead_dim = 8\n" +
      Entry("naive") + Entry("crash") + Entry("reference");
  const Outcome outcome = Sweep(text, "--plugin " + TestPlugin("crash"));
  ASSERT_EQ(outcome.status, 0) << outcome.output;
  std::map<std::string, int> ok;
  for (const json& record : Records()) {
    ok[record["kernel"]] += record["status"] == "ok";
    if (record["kernel"] == "crash") {
      EXPECT_EQ(record["status"], "failed");
    }
  }
  EXPECT_EQ(ok["naive"], 4);
  EXPECT_EQ(ok["reference"], 4);
}

TEST_F(SweepTest, RefusedAndSkippedSayWhy) {
  const std::string text =
      "[sweep]\nrounds = 2\nmax_seconds_per_case = 0.01\nmemory_budget_gib = 0.001\n"
      "[axes]\nkeys = 1024\nhead_dim = 8\n" +
      Entry("naive") + Entry("bahdanau");
  const Outcome outcome = Sweep(text);
  ASSERT_EQ(outcome.status, 0) << outcome.output;
  ASSERT_EQ(Records().size(), 2u);
  for (const json& record : Records()) {
    const bool naive = record["kernel"] == "naive";
    EXPECT_EQ(record["status"], naive ? "skipped" : "refused");
    EXPECT_NE(record["reason"].get<std::string>().find(naive ? "over the budget" : "score"),
              std::string::npos)
        << record["reason"];
    if (naive) {
      EXPECT_GT(record["predicted_bytes"].get<double>(), 4e6);
    }
  }
}

TEST_F(SweepTest, ResumeMeasuresWhatIsMissingAndNothingElse) {
  ASSERT_EQ(Sweep(kSmall).status, 0);
  const std::string whole = folder_.Read("run/records.jsonl");
  ASSERT_EQ(Harness("sweep --resume " + folder_.File("run")).status, 0);
  EXPECT_EQ(folder_.Read("run/records.jsonl"), whole) << "a whole run is left alone";

  // Killed in the middle of the second line.
  const std::size_t first_line = whole.find('\n') + 1;
  folder_.Write("run/records.jsonl", whole.substr(0, first_line + 100));
  const Outcome outcome = Harness("sweep --resume " + folder_.File("run"));
  ASSERT_EQ(outcome.status, 0) << outcome.output;
  EXPECT_NE(outcome.output.find("the last line was cut off"), std::string::npos);
  EXPECT_EQ(folder_.Read("run/records.jsonl").substr(0, first_line), whole.substr(0, first_line));
  std::set<std::pair<std::string, int>> seen;
  for (const json& record : Records())
    EXPECT_TRUE(seen.insert(CaseAndRound(record)).second) << "measured twice";
  EXPECT_EQ(seen.size(), 4u);
}

TEST_F(SweepTest, RecordsOfAnotherBuildAreMeasuredAgain) {
  ASSERT_EQ(Sweep(kSmall).status, 0);
  std::string text = folder_.Read("run/records.jsonl");
  const std::string build = Records()[0]["build"];
  for (std::size_t at; (at = text.find(build)) != std::string::npos;)
    text.replace(at, build.size(), "0123");
  folder_.Write("run/records.jsonl", text);
  const Outcome outcome = Harness("sweep --resume " + folder_.File("run"));
  ASSERT_EQ(outcome.status, 0) << outcome.output;
  EXPECT_NE(outcome.output.find("another build"), std::string::npos);
  EXPECT_EQ(Records().size(), 8u);
}

TEST_F(SweepTest, AnInterruptKeepsWhatWasMeasured) {
  const std::string file = folder_.Write("small.toml", kSmall + Entry("hang") + Entry("reference"));
  Background sweep(folder_,
                   file + " -o " + folder_.File("run") + " --plugin " + TestPlugin("hang"));
  EXPECT_TRUE(WaitFor([&] { return !Records().empty(); }));
  const Outcome outcome = sweep.Signal(SIGINT);
  EXPECT_EQ(outcome.status, 130) << outcome.output;
  EXPECT_NE(outcome.output.find("interrupted"), std::string::npos) << outcome.output;
  const RecordsRead read = ReadRecords(folder_.File("run") + "/records.jsonl");
  EXPECT_GE(read.records.size(), 1u);
  EXPECT_EQ(read.torn_bytes, 0u);
}

TEST_F(SweepTest, ASecondSweepInTheSameFolderIsRefused) {
  const std::string file = folder_.Write("small.toml", kSmall + Entry("hang"));
  Background first(folder_,
                   file + " -k hang -o " + folder_.File("run") + " --plugin " + TestPlugin("hang"));
  EXPECT_TRUE(WaitFor([&] { return std::filesystem::exists(folder_.File("run") + "/run.json"); }));
  const Outcome second = Harness("sweep --resume " + folder_.File("run"));
  EXPECT_EQ(first.Signal(SIGINT).status, 130);
  EXPECT_EQ(second.status, 2);
  EXPECT_NE(second.output.find("another sweep"), std::string::npos) << second.output;
}

TEST_F(SweepTest, ShardsTogetherAreTheWhole) {
  ASSERT_EQ(Sweep(kSmall, "--shard 1/2", "a").status, 0);
  ASSERT_EQ(Sweep(kSmall, "--shard 2/2", "b").status, 0);
  std::set<std::string> cases;
  for (const char* run : {"a", "b"})
    for (const json& record : Records(run)) cases.insert(record["case"]);
  EXPECT_EQ(cases.size(), 2u);
  EXPECT_EQ(Records("a").size() + Records("b").size(), 4u);
}

TEST_F(SweepTest, ABudgetIsKeptAndEveryCaseIsVisited) {
  const std::string text =
      "[sweep]\nrounds = 1000\n[axes]\nkeys = [16, 32]\nhead_dim = [8, 16]\n" + Entry("naive");
  const Outcome outcome = Sweep(text, "--budget 2");
  ASSERT_EQ(outcome.status, 0) << outcome.output;
  std::set<std::string> cases;
  for (const json& record : Records()) cases.insert(record["case"]);
  EXPECT_EQ(cases.size(), 4u);
  EXPECT_LT(Records().size(), 4000u);
}

TEST_F(SweepTest, BadInputIsOneLineAndNothingIsWritten) {
  const std::string good = folder_.Write("good.toml", kSmall);
  const std::string run = " -o " + folder_.File("never");
  const std::string bad[] = {
      "sweep " + folder_.File("missing.toml") + run,
      "sweep " + folder_.Write("bad.toml", "[axes") + run,
      "sweep " + folder_.path() + run,
      "sweep " + good + " -k nave" + run,
      "sweep " + good + " -a keys=0" + run,
      "sweep " + good + " -a keys" + run,
      "sweep " + good + " -a keys=4000000000" + run,
      "sweep " + good + " -a heads=3 -a kv_heads=2" + run,
      "sweep " + good + " --shard 3/2" + run,
      "sweep " + good + " --budget -1" + run,
      "sweep " + good + " --plugin /nowhere.so" + run,
      "sweep " + good + " -o /proc/nowhere",
      "sweep " + good + " -o " + folder_.path(),
      "sweep " + good + " --resume " + folder_.path(),
      "sweep --resume " + folder_.path(),
      "sweep --resume " + folder_.File("never"),
      "sweep --frobnicate",
      "frobnicate",
      "list --frobnicate",
  };
  for (const std::string& arguments : bad) {
    const Outcome outcome = Harness(arguments);
    EXPECT_EQ(outcome.status, 2) << arguments << "\n" << outcome.output;
    EXPECT_EQ(std::count(outcome.output.begin(), outcome.output.end(), '\n'), 1) << outcome.output;
    EXPECT_EQ(outcome.output.substr(0, 11), "attnbench: ") << outcome.output;
  }
  EXPECT_FALSE(std::filesystem::exists(folder_.File("never")));
}

TEST_F(SweepTest, ADryRunWritesNothing) {
  const Outcome outcome = Sweep(kSmall, "--dry-run");
  EXPECT_EQ(outcome.status, 0);
  EXPECT_NE(outcome.output.find("naive keys=32 d=8"), std::string::npos) << outcome.output;
  EXPECT_FALSE(std::filesystem::exists(folder_.File("run")));
}

}  // namespace
}  // namespace attnbench
