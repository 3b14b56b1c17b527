// SPDX-License-Identifier: Apache-2.0
#include "harness/record.h"

#include <gtest/gtest.h>

#include <limits>

#include "harness/testing.h"

namespace attnbench {
namespace {

TEST(Record, IsOneLineAndNonFiniteIsNull) {
  const std::string line =
      RecordLine({{"reason", "two\nlines"},
                  {"error", std::numeric_limits<double>::quiet_NaN()},
                  {"ceiling_gflops", std::numeric_limits<double>::infinity()}});
  EXPECT_EQ(line, "{\"ceiling_gflops\":null,\"error\":null,\"reason\":\"two\\nlines\"}\n");
}

TEST(Record, BytesThatAreNoTextDoNotStopIt) {
  EXPECT_NE(RecordLine({{"reason", std::string("\xff\xfe boom")}}).find("boom"), std::string::npos);
}

TEST(Record, WhatIsWrittenIsReadBack) {
  const TemporaryFolder folder;
  const std::string path = folder.File("records.jsonl");
  EXPECT_TRUE(ReadRecords(path).records.empty());
  {
    RecordWriter writer(path);
    writer.Append({{"case", "a"}});
  }
  RecordWriter(path).Append({{"case", "b"}});
  const RecordsRead read = ReadRecords(path);
  ASSERT_EQ(read.records.size(), 2u);
  EXPECT_EQ(read.records[1]["case"], "b");
  EXPECT_EQ(read.torn_bytes, 0u);
}

TEST(Record, ATornLastLineIsCutOffWithAMessage) {
  const TemporaryFolder folder;
  const std::string whole = "{\"case\":\"a\"}\n{\"case\":\"b\"}\n";
  const std::string path = folder.Write("records.jsonl", whole + "{\"case\":\"c\",\"sam");
  std::string message;
  EXPECT_EQ(RepairRecords(path, &message).records.size(), 2u);
  EXPECT_NE(message.find("the last line was cut off"), std::string::npos);
  EXPECT_EQ(folder.Read("records.jsonl"), whole);
  message.clear();
  EXPECT_EQ(RepairRecords(path, &message).records.size(), 2u);
  EXPECT_EQ(message, "");
}

TEST(Record, ADamagedLineCostsOnlyItself) {
  const TemporaryFolder folder;
  const std::string path =
      folder.Write("records.jsonl", "{\"case\":\"a\"}\n#garbage\n7\n{\"case\":\"b\"}\n");
  const RecordsRead read = ReadRecords(path);
  EXPECT_EQ(read.records.size(), 2u);
  EXPECT_EQ(read.damaged_lines, (std::vector<std::size_t>{2, 3}));
}

TEST(Record, AFullDiskIsAnErrorAndNotATornLine) {
  if (access("/dev/full", W_OK) != 0) GTEST_SKIP() << "no /dev/full here";
  RecordWriter writer("/dev/full");
  EXPECT_THROW(writer.Append({{"case", "a"}}), std::runtime_error);
}

}  // namespace
}  // namespace attnbench
