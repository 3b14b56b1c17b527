// SPDX-License-Identifier: Apache-2.0
// records.jsonl: one complete JSON line per measurement (fields: results/SCHEMA.md). A line is one
// write, flushed to the disk before the sweep goes on, so that a run directory is readable whenever
// the process dies.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace attnbench {

inline constexpr int kRecordSchema = 1;

// The record as one line, with its newline. JSON knows no NaN or infinity: they become null.
std::string RecordLine(const nlohmann::json& record);

// A field of a record that may hold anything: empty where it is no text; only the texts of `flags`.
std::string TextOf(const nlohmann::json& record, const char* field);
std::vector<std::string> FlagsOf(const nlohmann::json& record);

struct RecordsRead {
  std::vector<nlohmann::json> records;
  std::size_t whole_bytes = 0;             // up to here the file is whole
  std::size_t torn_bytes = 0;              // of a last line that was cut off
  std::vector<std::size_t> damaged_lines;  // whole lines that are no record, by number from 1
};
// A missing file holds no records. Throws UserError when it cannot be read.
RecordsRead ReadRecords(const std::string& path);

// Appends to a file, which it creates. Throws std::runtime_error when a line cannot be written
// whole; what part of it was written is taken back first.
class RecordWriter {
 public:
  explicit RecordWriter(const std::string& path);
  ~RecordWriter();
  RecordWriter(const RecordWriter&) = delete;
  RecordWriter& operator=(const RecordWriter&) = delete;
  void Append(const nlohmann::json& record);

 private:
  std::string path_;
  int fd_ = -1;
};

// Reads the records, cuts a torn last line off the file and says so in *message.
RecordsRead RepairRecords(const std::string& path, std::string* message);

// "2026-05-01T12:34:56.789Z", and "20260501T123456Z" for names of folders.
std::string UtcNow();
std::string UtcNowCompact();

}  // namespace attnbench
