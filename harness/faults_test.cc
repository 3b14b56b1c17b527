// SPDX-License-Identifier: Apache-2.0
// Sweeps under what ends or spoils them: kill, full disk, no memory, plugins that crash before they
// run. Each fault is caused, not simulated; what the system does not let us cause is skipped.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "harness/record.h"
#include "harness/testing.h"

namespace attnbench {
namespace {

using nlohmann::json;

constexpr char kSettings[] =
    "[sweep]\nrounds = 4\nmax_seconds_per_case = 0.005\nrepeat_slowed = false\n";
constexpr char kSmall[] =
    "[sweep]\nrounds = 4\nmax_seconds_per_case = 0.005\nrepeat_slowed = false\n"
    "[axes]\nkeys = [16, 32, 48]\nhead_dim = 8\n[[kernel]]\nname = \"naive\"\n";

class FaultsTest : public testing::Test {
 protected:
  std::string Small() const { return folder_.Write("small.toml", kSmall); }
  std::string RunPath() const { return folder_.File("run"); }
  std::string Lines() const { return folder_.Read("run/records.jsonl"); }
  RecordsRead Read(const std::string& run) const { return ReadRecords(run + "/records.jsonl"); }
  std::vector<json> Records() const { return Read(RunPath()).records; }
  // Every (case, round) of kSmall exactly once.
  static void ExpectWhole(const std::vector<json>& records) {
    std::set<std::pair<std::string, int>> seen;
    for (const json& record : records) {
      EXPECT_EQ(record["status"], "ok");
      EXPECT_TRUE(
          seen.emplace(record["case"].get<std::string>(), record["round"].get<int>()).second)
          << "measured twice";
    }
    EXPECT_EQ(seen.size(), 12u);
  }
  Outcome SweepOne(const std::string& kernel, const std::string& arguments,
                   const std::string& settings = kSettings, int keys = 16) {
    const std::string file = folder_.Write(
        "one.toml", settings + "[axes]\nkeys = " + std::to_string(keys) +
                        "\nqueries = 16\nhead_dim = 8\n[[kernel]]\nname = \"" + kernel + "\"\n");
    return Harness("sweep " + file + " -o " + RunPath() + " " + arguments);
  }

  TemporaryFolder folder_;
};

// A mount that goes away; `ok` when the system lets us.
class Mounted {
 public:
  Mounted(const std::string& path, unsigned long flags, const std::string& options) : path_(path) {
    std::filesystem::create_directories(path);
    ok = mount("tmpfs", path.c_str(), "tmpfs", flags, options.c_str()) == 0;
  }
  ~Mounted() {
    if (ok) umount2(path_.c_str(), MNT_DETACH);
  }
  bool ok = false;

 private:
  std::string path_;
};

TEST_F(FaultsTest, KilledAgainAndAgainItIsResumedToExactlyTheWhole) {
  std::string arguments = Small() + " -o " + RunPath();
  std::size_t records = 0;
  for (int kills = 0; kills < 4; ++kills) {
    const std::string before = Lines();
    {
      Background sweep(folder_, arguments);
      ASSERT_TRUE(WaitFor([&] { return Records().size() > records; }));
      usleep(static_cast<useconds_t>(kills) * 7000);  // not always just after a record
      EXPECT_EQ(sweep.Signal(SIGKILL).status, 128 + SIGKILL);
    }
    EXPECT_TRUE(Lines().starts_with(before)) << "what stood was touched";
    EXPECT_TRUE(Read(RunPath()).damaged_lines.empty());
    records = Records().size();
    arguments = "--resume " + RunPath();
  }
  EXPECT_LT(records, 12u) << "nothing was left to resume";
  const Outcome outcome = Harness("sweep --resume " + RunPath());
  ASSERT_EQ(outcome.status, 0) << outcome.output;
  EXPECT_NE(outcome.output.find(std::to_string(records) + " records stand"), std::string::npos)
      << outcome.output;
  ExpectWhole(Records());
}

TEST_F(FaultsTest, NothingMeasuresOnAfterTheSweepIsKilled) {
  const std::string file = folder_.Write("hang.toml", std::string(kSettings) +
                                                          "[axes]\nkeys = 16\nhead_dim = 8\n"
                                                          "[[kernel]]\nname = \"hang\"\n");
  Background sweep(folder_, file + " -o " + RunPath() + " --plugin " + TestPlugin("hang"));
  std::string children;
  ASSERT_TRUE(WaitFor([&] { return std::filesystem::exists(RunPath() + "/records.jsonl"); }));
  const std::string pid = std::to_string(sweep.pid());
  const auto list = [&] {
    std::ifstream in("/proc/" + pid + "/task/" + pid + "/children");
    return std::getline(in, children) && !children.empty();
  };
  if (!WaitFor(list)) GTEST_SKIP() << "/proc/PID/task/PID/children is not provided here";
  usleep(300000);
  list();
  sweep.Signal(SIGKILL);
  std::istringstream each(children);
  for (std::string child; each >> child;)
    EXPECT_TRUE(WaitFor([&] {
      std::ifstream in("/proc/" + child + "/stat");
      std::string stat;
      return !std::getline(in, stat) || stat.find(") Z ") != std::string::npos;
    })) << "process "
        << child << " is left over";
}

TEST_F(FaultsTest, ATerminationKeepsWhatWasMeasured) {
  Background sweep(folder_, Small() + " -o " + RunPath());
  ASSERT_TRUE(WaitFor([&] { return !Records().empty(); }));
  const Outcome outcome = sweep.Signal(SIGTERM);
  EXPECT_EQ(outcome.status, 130) << outcome.output;
  EXPECT_NE(outcome.output.find("--resume"), std::string::npos) << outcome.output;
  EXPECT_EQ(Read(RunPath()).torn_bytes, 0u);
  ASSERT_EQ(Harness("sweep --resume " + RunPath()).status, 0);
  ExpectWhole(Records());
}

// The disk ends in the middle of a record: an error that names the file, no torn line, and the run
// goes on once there is room.
TEST_F(FaultsTest, AFileThatMayNotGrowKeepsItsWholeLines) {
  const std::string file = Small();
  // dash counts in 512 bytes. environment.json fits, all the records do not.
  const Outcome full = Shell("sh -c 'ulimit -f 36; exec " ATTNBENCH_HARNESS " sweep " + file +
                             " -o " + RunPath() + "'");
  EXPECT_EQ(full.status, 1) << full.output;
  EXPECT_NE(full.output.find("records.jsonl: cannot be written: File too large"), std::string::npos)
      << full.output;
  const RecordsRead read = Read(RunPath());
  EXPECT_EQ(read.torn_bytes, 0u);
  EXPECT_GE(read.records.size(), 1u);
  EXPECT_LT(read.records.size(), 12u);
  ASSERT_EQ(Harness("sweep --resume " + RunPath()).status, 0);
  ExpectWhole(Records());
}

TEST_F(FaultsTest, AFullDiskKeepsItsWholeLines) {
  const std::string disk = folder_.File("disk"), run = disk + "/run";
  const Mounted mounted(disk, 0, "size=4m");
  if (!mounted.ok) GTEST_SKIP() << "no right to mount a tmpfs";
  // Something else on the disk leaves room for a few records, once the run has begun.
  Background sweep(folder_, Small() + " -o " + run);
  ASSERT_TRUE(WaitFor([&] { return !Read(run).records.empty(); }));
  const Outcome filled = Shell("dd if=/dev/zero of=" + disk + "/filler bs=4k");
  const Outcome full = sweep.Wait();
  EXPECT_EQ(full.status, 1) << full.output << filled.output;
  EXPECT_NE(full.output.find("records.jsonl: cannot be written: No space left on device"),
            std::string::npos)
      << full.output;
  const RecordsRead read = Read(run);
  EXPECT_EQ(read.torn_bytes, 0u);
  EXPECT_LT(read.records.size(), 12u);
  std::filesystem::remove(disk + "/filler");
  ASSERT_EQ(Harness("sweep --resume " + run).status, 0);
  ExpectWhole(Read(run).records);
}

TEST_F(FaultsTest, AReadOnlyFolderIsOneLine) {
  const std::string disk = folder_.File("disk");
  const Mounted mounted(disk, geteuid() == 0 ? MS_RDONLY : 0, "size=1m");
  if (!mounted.ok && chmod(disk.c_str(), 0555) != 0) GTEST_SKIP() << "cannot make it read-only";
  if (!mounted.ok && geteuid() == 0) GTEST_SKIP() << "no right to mount a tmpfs";
  const Outcome outcome = Harness("sweep " + Small() + " -o " + disk + "/run");
  EXPECT_EQ(outcome.status, 2) << outcome.output;
  EXPECT_EQ(std::count(outcome.output.begin(), outcome.output.end(), '\n'), 1) << outcome.output;
  EXPECT_NE(outcome.output.find(disk), std::string::npos) << outcome.output;
}

// A memory limit of the kernel's, below what the child is allowed by ours: the child is killed, the
// sweep is not.
TEST_F(FaultsTest, AChildThatIsKilledForMemoryIsARecord) {
  const std::string group = "/sys/fs/cgroup/memory/attnbench-test-" + std::to_string(getpid());
  std::error_code error;
  if (!std::filesystem::create_directory(group, error))
    GTEST_SKIP() << "no right to make a memory cgroup (version 1)";
  std::ofstream(group + "/memory.limit_in_bytes") << (200 << 20);
  const std::string file = folder_.Write("one.toml", std::string(kSettings) +
                                                         "[axes]\nkeys = 16\nhead_dim = 8\n"
                                                         "[[kernel]]\nname = \"exhausts\"\n"
                                                         "[[kernel]]\nname = \"naive\"\n");
  const Outcome outcome =
      Shell("sh -c 'echo $$ > " + group + "/cgroup.procs && exec " ATTNBENCH_HARNESS " sweep " +
            file + " -o " + RunPath() + " --plugin " + TestPlugin("exhausts") + "'");
  std::filesystem::remove(group, error);
  ASSERT_EQ(outcome.status, 0) << outcome.output;
  int killed = 0, ok = 0;
  for (const json& record : Records()) {
    ok += record["status"] == "ok";
    if (record["kernel"] != "exhausts") continue;
    ++killed;
    EXPECT_EQ(record["status"], "failed");
    EXPECT_TRUE(
        record["reason"].get<std::string>().starts_with("killed by SIGKILL (out of memory)"))
        << record["reason"];
  }
  EXPECT_EQ(killed, 1);
  EXPECT_EQ(ok, 4);
}

TEST_F(FaultsTest, APluginThatDiesInItsClaimsCostsItsOwnCases) {
  std::string text = kSmall;
  const std::map<std::string, std::string> reasons = {
      {"dies_in_refuse", "killed by SIGSEGV: in refuse of kernel 'dies_in_refuse'"},
      {"dies_in_workspace", "killed by SIGSEGV: in workspace of kernel 'dies_in_workspace'"},
      {"throws_in_executed", "no idea of the cost"}};
  for (const auto& [kernel, reason] : reasons) text += "[[kernel]]\nname = \"" + kernel + "\"\n";
  const Outcome outcome = Harness("sweep " + folder_.Write("claims.toml", text) + " -o " +
                                  RunPath() + " --plugin " + TestPlugin("claims"));
  ASSERT_EQ(outcome.status, 0) << outcome.output;
  std::map<std::string, int> count;
  for (const json& record : Records()) {
    const std::string kernel = record["kernel"];
    ++count[kernel];
    if (kernel == "naive") continue;
    EXPECT_EQ(record["status"], "failed");
    EXPECT_EQ(record["reason"], reasons.at(kernel));
  }
  EXPECT_EQ(count["naive"], 12);
  for (const auto& [kernel, reason] : reasons) EXPECT_EQ(count[kernel], 3) << "once a case";
}

TEST_F(FaultsTest, APluginThatDiesWhileItIsLoadedIsOneLine) {
  const Outcome outcome =
      Harness("sweep " + Small() + " -o " + RunPath() + " --plugin " + TestPlugin("crash_on_load"));
  EXPECT_EQ(outcome.status, 2) << outcome.output;
  EXPECT_NE(outcome.output.find("killed by SIGSEGV: loading plugin"), std::string::npos)
      << outcome.output;
  EXPECT_FALSE(std::filesystem::exists(RunPath()));
}

// The same program with another build id.
TEST_F(FaultsTest, ARebuiltBinaryIsMeasuredAgain) {
  ASSERT_EQ(Harness("sweep " + Small() + " -o " + RunPath()).status, 0);
  const std::string build = Records().at(0)["build"], whole = Lines();
  std::string id;
  for (std::size_t i = 0; i + 1 < build.size(); i += 2)
    id += static_cast<char>(std::stoi(build.substr(i, 2), nullptr, 16));
  std::ifstream in(ATTNBENCH_HARNESS, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  std::string binary = text.str();
  const std::size_t at = binary.find(id);
  if (at == std::string::npos) GTEST_SKIP() << "linked without a build id";
  binary[at] = static_cast<char>(binary[at] ^ 1);
  const std::string rebuilt = folder_.Write("rebuilt", binary);
  std::filesystem::permissions(rebuilt, std::filesystem::perms::owner_all);
  const Outcome outcome = Shell(rebuilt + " sweep --resume " + RunPath());
  ASSERT_EQ(outcome.status, 0) << outcome.output;
  EXPECT_NE(outcome.output.find("12 records are of another build"), std::string::npos)
      << outcome.output;
  EXPECT_TRUE(Lines().starts_with(whole));
  std::vector<json> records = Records();
  ASSERT_EQ(records.size(), 24u);
  records.erase(records.begin(), records.begin() + 12);
  for (const json& record : records) EXPECT_NE(record["build"], build);
  ExpectWhole(records);
}

TEST_F(FaultsTest, ARebuiltPluginIsMeasuredAgain) {
  const std::string plugin = folder_.File("throws.so");
  std::filesystem::copy_file(TestPlugin("throws"), plugin);
  ASSERT_EQ(SweepOne("throws", "--plugin " + plugin).status, 0);
  ASSERT_EQ(Records().size(), 1u);
  ASSERT_EQ(Harness("sweep --resume " + RunPath()).status, 0);
  EXPECT_EQ(Records().size(), 1u);
  std::ofstream(plugin, std::ios::app) << "another";
  const Outcome outcome = Harness("sweep --resume " + RunPath());
  EXPECT_NE(outcome.output.find("another build"), std::string::npos) << outcome.output;
  ASSERT_EQ(Records().size(), 2u);
  EXPECT_NE(Records()[0]["build"], Records()[1]["build"]);
}

// A kernel whose process slows the machine down, in the one way or the other.
class SlowedTest : public FaultsTest {
 protected:
  static bool Has(const json& record, const char* flag) {
    const auto flags = FlagsOf(record);
    return std::find(flags.begin(), flags.end(), flag) != flags.end();
  }
  void ExpectRepeated(const std::string& kernel) {
    const std::string text =
        "[sweep]\nrounds = 3\nmax_seconds_per_case = 0.1\ntarget_interval = 1e-6\n"
        "plateau = false\n[axes]\nqueries = 16\nhead_dim = 8\n"
        "[[kernel]]\nname = \"naive\"\nkeys = 16\n[[kernel]]\nname = \"" +
        kernel + "\"\nkeys = 1\n";
    const Outcome outcome = Harness("sweep " + folder_.Write("slow.toml", text) + " -o " +
                                    RunPath() + " --plugin " + TestPlugin("disturbs"));
    ASSERT_EQ(outcome.status, 0) << outcome.output;
    const std::vector<json> records = Records();
    ASSERT_GE(records.size(), 7u);
    int slowed = 0, repeated = 0;
    for (std::size_t i = 0; i < records.size(); ++i) {
      slowed += records[i]["kernel"] == kernel && Has(records[i], "slowed") && i < 6;
      repeated += Has(records[i], "repeated");
      EXPECT_EQ(Has(records[i], "repeated"), i >= 6) << "at the end, and nowhere else";
    }
    EXPECT_GE(slowed, 1);  // all three, unless the whole machine stands still meanwhile
    EXPECT_GE(repeated, 1);
    EXPECT_LE(repeated, 2) << "at most a quarter of the visits";
    const std::string whole = Lines();
    ASSERT_EQ(Harness("sweep --resume " + RunPath()).status, 0);
    EXPECT_EQ(Lines(), whole) << "and not once more when resumed";
  }
};

TEST_F(SlowedTest, WhatTheMachineWasSlowForIsRepeatedAtTheEnd) { ExpectRepeated("slows"); }

TEST_F(SlowedTest, SoIsWhatOthersHadTheProcessorFor) {
  if (!std::ifstream("/proc/thread-self/schedstat")) GTEST_SKIP() << "waiting is not told here";
  ExpectRepeated("shares");
  int waited = 0;
  for (const json& record : Records()) {
    if (record["waited_fraction"] <= 0.1) continue;
    waited += record["kernel"] == "shares";
    EXPECT_TRUE(Has(record, "slowed") && Has(record, "preempted")) << record["flags"];
  }
  EXPECT_GE(waited, 1);
}

}  // namespace
}  // namespace attnbench
